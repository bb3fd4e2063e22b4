"""How tests run a script: as a command line, with the library on its path and one thread."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def listed(folder: Path) -> list[str]:
    """The names of what a user sees in a folder, sorted: without checksums and other hidden files."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def command(name: str, *words: Any, folder: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs ``workflow/scripts/{name}.py`` with these words in ``folder``; with ``check`` it must succeed."""
    line = [sys.executable, "-P", str(ROOT / "workflow/scripts" / f"{name}.py"), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


def script(name: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a script with ``--option value`` for each of ``options``, mappings as JSON; it may fail."""
    words = []
    for key, value in options.items():
        words += [f"--{key.replace('_', '-')}", json.dumps(value) if isinstance(value, dict) else value]
    return command(name, *words, folder=folder, check=False)
