"""The stand-in for conda: what it honours, what it refuses, and that a build is whole or absent."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT, Project

TOOL = ROOT / "envs/fallback/venv_conda.py"


def conda(*arguments, driver):
    return subprocess.run([driver, TOOL, *arguments], capture_output=True, text=True)


@pytest.fixture
def env_file(tmp_path):
    def write(*dependencies, **other):
        file = tmp_path / "env.yaml"
        file.write_text(json.dumps({"name": "x", "dependencies": list(dependencies), **other}))  # JSON is YAML
        return file

    return write


@pytest.mark.parametrize(
    ("dependencies", "message"),
    [
        (["python=3.11", "samtools=1.2", {"pip": []}], "samtools=1.2 is a conda package"),
        (["python=3.11", "pip", {"pip": ["numpy>=2"]}], "numpy>=2 is not an exact pin"),
        (["python=3.11", {"pip": ["-r other.txt"]}], "-r other.txt is not an exact pin"),
        (["python=3.11", {"pip": ["x @ https://example.org/x.whl"]}], "not an exact pin"),
        (["python>=3.11", {"pip": []}], "python>=3.11 is a conda package"),
        (["pip"], "no python=X.Y"),
    ],
)
def test_refuses_what_it_cannot_honour(env_file, tmp_path, driver_python, dependencies, message):
    done = conda("env", "create", "--file", env_file(*dependencies), "--prefix", tmp_path / "p", driver=driver_python)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "p").exists()


def test_refuses_unknown_keys_and_calls(env_file, tmp_path, driver_python):
    file = env_file("python=3.11", variables={"A": "1"})
    assert (
        "key variables"
        in conda("env", "create", "--file", file, "--prefix", tmp_path / "p", driver=driver_python).stderr
    )
    assert "not understood" in conda("install", "numpy", driver=driver_python).stderr


def test_answers_what_snakemake_asks(driver_python):
    assert conda("--version", driver=driver_python).stdout.startswith("conda ")
    assert "conda_prefix" in json.loads(conda("info", "--json", driver=driver_python).stdout)
    answer = conda("config", "--get", "channel_priority", "--json", driver=driver_python)
    assert json.loads(answer.stdout)["get"]["channel_priority"] == "strict"


def test_builders_of_one_prefix_wait_and_leave_nothing_half_made(env_file, tmp_path, driver_python):
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    file, prefix = env_file(f"python={version}", "pip", {"pip": []}), tmp_path / "prefix"
    half = tmp_path / "prefix.partial"
    half.mkdir()
    (half / "left by a killed build").touch()
    command = [driver_python, TOOL, "env", "create", "--file", file, "--prefix", prefix]
    builders = [subprocess.Popen(command) for _ in range(3)]
    assert [builder.wait() for builder in builders] == [0, 0, 0]
    assert not half.exists()
    activate = ROOT / "envs/fallback/bin/activate"
    shown = subprocess.run(
        ["bash", "-c", f"source {activate} {prefix}; python -c 'import sys; print(sys.prefix)'"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(shown.stdout.strip()) == prefix


def test_a_failed_install_leaves_no_environment(env_file, tmp_path, driver_python):
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    file = env_file(f"python={version}", {"pip": ["trueshift-no-such-package==1.0"]})
    done = conda("env", "create", "--file", file, "--prefix", tmp_path / "p", driver=driver_python)
    assert done.returncode == 1
    assert not (tmp_path / "p").exists()


def test_a_conda_on_path_is_used_instead(tmp_path):
    project = Project(tmp_path / "project")
    asked, real = tmp_path / "asked.txt", tmp_path / "bin/conda"
    real.parent.mkdir()
    real.write_text(f'#!/bin/sh\necho "$@" >> {asked}\nexec {project.folder}/envs/fallback/bin/conda "$@"\n')
    real.chmod(0o755)
    project.snakemake("-n", env={"PATH": f"{real.parent}:{os.environ['PATH']}"})
    assert "info --json" in asked.read_text()
