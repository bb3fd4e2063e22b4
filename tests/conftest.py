"""What all tests share: processes that tests start find the library, as the rules' processes do."""

import os
from pathlib import Path

os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1] / "src")
os.environ["PYTHONNOUSERSITE"] = "1"
