"""Prints the folder of a built environment: ``python tests/prefix.py torch``; build them with ``make environments``."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def prefix(name: str) -> Path:
    """Where Snakemake keeps the environment ``envs/<name>.yaml``."""
    command = [ROOT / ".venv/bin/snakemake", "--configfile", "config/everything.yaml", "--list-conda-envs", "--quiet"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for line in shown.splitlines():
        columns = line.split("\t")
        if Path(columns[0]).name == f"{name}.yaml":
            folder = ROOT / columns[-1]
            if (folder / "bin/python").exists():
                return folder
            sys.exit(f"environment {name} is not built: run make environments")
    sys.exit(f"no rule of the configuration uses environment {name}")


if __name__ == "__main__":
    print(prefix(sys.argv[1]))
