import os
import subprocess
import sys
from pathlib import Path

import trueshift


def test_scoring_starts_light() -> None:
    code = """
import sys
import trueshift.evaluation.duplicates, trueshift.evaluation.statistics
heavy = {"torch", "sklearn", "scanpy", "scvi", "matplotlib", "wandb", "scipy.stats"}
print(sorted(heavy & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(trueshift.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
