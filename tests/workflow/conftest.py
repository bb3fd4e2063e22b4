"""A copy of the project to run workflows in, sharing the environments that are already built."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
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

    def snakemake(self, *arguments, check=True, more=None):
        """Runs snakemake with the mini configuration and ``more``; returns the process, output and errors joined."""
        files = [Path(__file__).with_name("mini.yaml"), *([more] if more else [])]
        fixed = ["--conda-prefix", ROOT / ".snakemake/conda", "--configfile", *files]
        command = [ROOT / ".venv/bin/snakemake", *arguments, *fixed]
        environment = {**os.environ, "COLUMNS": "4000"}  # the logger wraps lines at the terminal's width
        done = subprocess.run(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        done.stdout = re.sub(r"[ ─]{40,}", " ", done.stdout)  # and pads them to it
        if check:
            assert done.returncode == 0, done.stdout
        return done

    def planned(self, *arguments, more=None):
        """How many jobs of each rule a dry run plans."""
        shown = self.snakemake(*arguments, "-n", more=more).stdout
        table = shown.split("Job stats")[1].split("Reasons")[0]
        rows = [line.split() for line in table.splitlines()]
        return {"_".join(row[:-1]): int(row[-1]) for row in rows if len(row) > 1 and row[-1].isdigit()}

    def summary(self):
        """One row per output file: what made it, from what, by which command, and whether it is due again."""
        shown = self.snakemake("--detailed-summary").stdout
        lines = shown[shown.index("output_file\t") :].splitlines()
        rows = [line.split("\t") for line in lines if "\t" in line]
        return pd.DataFrame(rows[1:], columns=rows[0])


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A project in which the mini configuration has run from nothing to tables."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.snakemake("--cores", "2", "--resources", "gpu=2")
    return project
