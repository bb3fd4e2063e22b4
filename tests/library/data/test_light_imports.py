"""What the stages between import and training import."""

import subprocess
import sys


def test_light_stages_do_not_import_scanpy() -> None:
    code = (
        "import sys;"
        "from trueshift.data import genes, normalize, pairing, partition, qc, splitting;"
        "print([m for m in ('scanpy', 'torch', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
