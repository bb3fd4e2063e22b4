"""Runs the script of a rule with the library on its path: ``python -I workflow/run.py NAME ARGUMENTS``.

``-I`` keeps everything else off it: what PYTHONPATH of the user names, packages of the user, the working folder.
"""

import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent

sys.path.insert(0, str(FOLDER.parent / "src"))
runpy.run_path(str(FOLDER / "scripts" / f"{sys.argv.pop(1)}.py"), run_name="__main__")
