"""The driver, and a project in which the mini configuration has run."""

import pytest
from project import ROOT, Project


@pytest.fixture(scope="session")
def driver_python():
    """The Python of the driver's environment, as ``make install`` builds it."""
    python = ROOT / ".venv/bin/python"
    assert python.exists(), "the driver's environment is missing: run make install"
    return python


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A project in which the mini configuration has run from nothing to tables."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.snakemake("--cores", "2", "--resources", "gpu=2")
    return project
