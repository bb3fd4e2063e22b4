"""A real SLURM of two nodes on this host, for as long as the tests run."""

import os
import subprocess
from pathlib import Path

import pytest

SLURM = Path(__file__).with_name("slurm.sh")


@pytest.fixture(scope="session")
def cluster():
    """Two nodes with four (made-up) GPUs each, accounting, and memory limits that are enforced."""
    if os.getuid() != 0:
        pytest.skip("NEEDS ROOT, and Debian's packages: starts SLURM's daemons")
    subprocess.run([SLURM, "up"], check=True)
    yield
    subprocess.run([SLURM, "down"], check=True)
