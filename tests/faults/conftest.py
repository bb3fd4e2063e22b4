"""A project that has run to its tables, and copies of it to break."""

import os
import re
import subprocess

import pytest
from breaking import SLOW, Faulty


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Made once, from nothing; tests break copies of it."""
    project = Faulty(tmp_path_factory.mktemp("finished") / "project")
    tables = [f"results/tables/{name}.csv" for name in ("leaks", "cost", "calibration")]
    figures = [f"results/figures/{name}.png" for name in ("topk_r2", "leaderboard")]
    project.run(*tables, *figures)
    assert "resumed" not in (project.folder / SLOW.replace("results", "results/logs") / "train.log").read_text()
    return project


@pytest.fixture
def project(finished, tmp_path):
    """A copy of the finished project."""
    return Faulty(tmp_path / "project", of=finished)


@pytest.fixture(scope="session")
def stage(finished):
    """Runs the very command that made an artefact, in the environment of its rule; lets it fail."""
    commands = finished.summary().set_index("output_file")["shellcmd"]
    shown = finished.snakemake("--list-conda-envs", "--quiet").stdout
    rows = re.findall(r"^\S*envs/(\w+)\.yaml\t.*\t(\S+)$", shown, re.MULTILINE)
    prefixes = {name: finished.folder / folder for name, folder in rows}

    def run(project, made, environment, stdout=subprocess.PIPE):
        command, redirected = commands[made].split(" > ")
        assert redirected.endswith("2>&1")
        search = f"{prefixes[environment]}/bin:{os.environ['PATH']}"
        variables = {**os.environ, "PATH": search, "TRUESHIFT": str(project.folder)}
        line = ["bash", "-c", command]
        return subprocess.run(line, cwd=project.folder, env=variables, stdout=stdout, stderr=subprocess.PIPE, text=True)

    return run
