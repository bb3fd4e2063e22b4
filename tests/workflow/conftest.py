"""A copy of the project to run workflows in, sharing the environments that are already built."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "rules", "workflow", "src", "config", "envs", "profiles")


@pytest.fixture(scope="session")
def driver_python():
    """The Python of the driver's environment, as ``make install`` builds it."""
    python = ROOT / ".venv/bin/python"
    assert python.exists(), "the driver's environment is missing: run make install"
    return python


class Project:
    """A working copy and the commands a user gives in it."""

    def __init__(self, folder):
        self.folder = folder
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, folder / part)

    def snakemake(self, *arguments, check=True):
        """Runs snakemake with the mini configuration; returns the finished process, output and errors joined."""
        fixed = ["--configfile", str(Path(__file__).with_name("mini.yaml")), "--logger", "rich"]
        command = [ROOT / ".venv/bin/snakemake", *arguments, "--conda-prefix", ROOT / ".snakemake/conda", *fixed]
        done = subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if check:
            assert done.returncode == 0, done.stdout
        return done

    def planned(self, *arguments):
        """How many jobs of each rule a dry run plans."""
        shown = self.snakemake("-n", "--quiet", "rules", *arguments).stdout
        jobs = {}
        for line in shown.splitlines():
            words = line.split()
            if len(words) == 2 and words[1].isdigit():
                jobs[words[0]] = int(words[1])
        return jobs


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A project in which the mini configuration has run from nothing to tables."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.snakemake("--cores", "2", "--resources", "gpu=2")
    return project
