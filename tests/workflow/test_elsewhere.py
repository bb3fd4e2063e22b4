"""The workflow run from folders that are not its own: imported as a module, by -s, by --directory."""

import copy
import os
import re
import shutil
import subprocess

import pytest
import yaml
from project import PARTS, ROOT, default_configuration
from snakemake.utils import update_config
from test_docs import Guide

from code_hash import Code
from defaults import NAMES, fill
from schema import config_schema, fill_defaults

ENVIRONMENTS = ("--sdm", "conda", "--conda-prefix", ROOT / ".snakemake/conda")
SMALL = {"run": {"datasets": ["simulated"], "splits": ["new_context"], "models": ["additive"]}}
HOST = """
rule seen:
    output: "seen.txt"
    shell: "env > {{output}}; echo $SHELLOPTS >> {{output}}"

SETTINGS = {config!r}

module trueshift:
    snakefile: {snakefile}
    {more}
    config: SETTINGS

use rule * from trueshift

assert SETTINGS == {config!r}
"""


def host(folder, snakefile, more=""):
    """Writes a workflow with a rule of its own that imports this one."""
    (folder / "Snakefile").write_text(HOST.format(snakefile=snakefile, more=more, config=SMALL))


def snakemake(folder, *arguments, **variables):
    """Runs it in a folder; returns the process, with all that it printed."""
    environment = {**os.environ, "COLUMNS": "4000", **variables}
    fixed = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "check": False}
    return subprocess.run([ROOT / ".venv/bin/snakemake", *arguments], cwd=folder, env=environment, **fixed)


def planned(folder, *arguments):
    """How many jobs a dry run there plans."""
    done = snakemake(folder, *arguments, "-n")
    assert done.returncode == 0, done.stdout
    return int(re.search(r"^\s*total\s+(\d+)", done.stdout, re.M)[1])


def refused(done):
    """The one line that says why a run does not start."""
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("Using", "WorkflowError in", "  File"))]
    assert len(lines) == 1, done.stdout
    return lines[0]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the project, called trueshift."""
    return Guide(tmp_path_factory.mktemp("elsewhere") / "trueshift")


def test_the_page_imports_a_module_and_runs_it(clone):
    clone.follow("elsewhere.md")
    study = clone.folder.parent / "study"
    assert (study / "results/simulated/qc.json").exists()
    assert "cells" in (study / "cells.txt").read_text()
    assert not (clone.folder / "results").exists()
    assert "Nothing to be done" in snakemake(study, "-n", *ENVIRONMENTS).stdout


def test_a_host_keeps_its_shell_its_default_rule_and_its_variables(clone, tmp_path):
    host(tmp_path, repr(str(clone.folder / "Snakefile")))
    variables = {"PYTHONPATH": "mine", "PYTHONNOUSERSITE": "0"}
    done = snakemake(tmp_path, "--cores", "1", "--sdm", "conda", **variables)
    assert done.returncode == 0, done.stdout
    seen = (tmp_path / "seen.txt").read_text().splitlines()
    assert {f"{name}={value}" for name, value in variables.items()} <= set(seen)
    assert {"errexit", "nounset", "pipefail"} <= set(seen[-1].split(":")), "Snakemake's own strict mode"
    assert not (tmp_path / "results").exists()


def test_a_prefix_is_refused_in_one_line(clone, tmp_path):
    host(tmp_path, repr(str(clone.folder / "Snakefile")), 'prefix: "below"')
    line = refused(snakemake(tmp_path, "-n"))
    assert "prefix:" in line and "use rule * from trueshift as trueshift_*" in line


def test_a_run_without_environments_is_refused_in_one_line_and_a_list_is_not(clone, tmp_path):
    there = ("-s", clone.folder / "workflow/Snakefile")
    assert "--sdm conda" in refused(snakemake(tmp_path, *there, "--cores", "1"))
    assert "import_data" in snakemake(tmp_path, *there, "--list").stdout.split()


def test_another_working_folder_plans_the_same_unless_it_has_settings_of_its_own(clone, tmp_path):
    here = planned(clone.folder)
    assert planned(tmp_path, "-s", clone.folder / "Snakefile") == here
    small = planned(clone.folder, "-s", "workflow/Snakefile", "--directory", ".test")
    assert small < here
    shutil.copytree(clone.folder / ".test/config", tmp_path / "config")
    assert planned(tmp_path, "-s", clone.folder / "Snakefile") == small


def test_a_version_out_of_git_is_unpacked_and_another_beside_it_refused(clone, tmp_path):
    git = ["git", "-C", clone.folder, "-c", "user.name=Test", "-c", "user.email=test@example.org"]
    for words in (["init", "-q"], ["add", *PARTS], ["commit", "-qm", "All"], ["tag", "v1"]):
        subprocess.run([*git, *words], check=True)
    host(tmp_path, f'gitfile("{clone.folder}", path="workflow/Snakefile", tag="v1")')
    assert planned(tmp_path, "results/simulated/qc.json") == 2
    (unpacked,) = (tmp_path / ".snakemake/trueshift").iterdir()
    assert (unpacked / "workflow/run.py").exists()
    with (tmp_path / "Snakefile").open("a") as file:
        file.write(f'module other:\n    snakefile: "{clone.folder}/Snakefile"\n\nuse rule * from other as other_*\n')
    line = refused(snakemake(tmp_path, "-n"))
    assert str(clone.folder) in line and str(unpacked) in line


def test_every_rule_starts_its_script_by_the_same_words_and_no_folder():
    """A command that named a folder would run again wherever the project is moved to."""
    rules = [rule for file in ROOT.glob("rules/*.smk") for rule in file.read_text().split("\nrule ")[1:]]
    assert len(rules) > 25
    for rule in rules:
        command = rule.split("    shell:\n")[1].strip().removeprefix('"').removeprefix("{params.threads} ")
        script = re.match(r"python -I \$TRUESHIFT/workflow/run\.py (\w+) ", command)[1]
        assert (ROOT / f"workflow/scripts/{script}.py").exists()
        assert f"workflow/scripts/{script}.py" in rule or f'model_code("{script}")' in rule, "its code is hashed"


def test_settings_are_those_of_the_user_over_those_of_files_in_order(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder, config in ((ours, {"a": {"x": 1, "y": 1}, "b": [1, 2]}), (theirs, {"a": {"y": 2, "z": 2}, "b": [3]})):
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (theirs / "models.yaml").write_text("a: {z: 3}")
    config = {"a": {"w": 4}, "c": [5]}
    read = fill(config, [ours, theirs, ours])
    assert read == [ours / "config.yaml", theirs / "config.yaml", theirs / "models.yaml"]
    assert config == {"a": {"x": 1, "y": 2, "z": 3, "w": 4}, "b": [3], "c": [5]}


def test_without_settings_of_the_user_the_files_of_the_project_count():
    config = {}
    assert fill(config, [ROOT / "config"]) == [ROOT / "config" / name for name in NAMES]
    given = copy.deepcopy(config)
    fill_defaults(given, config_schema(Code(ROOT)))
    assert given == default_configuration()
    given = {"run": {"models": ["additive"]}, "datasets": {"simulated": {"genes": {"n_top": 7}}}}
    expected = copy.deepcopy(config)
    update_config(expected, given)
    fill(given, [ROOT / "config"])
    assert given == expected
