"""What the driver makes of splits: what they ask, their folds, and the files that some are read from."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from project import ROOT, default_configuration

from checks import check_config
from code_hash import SPLITS, Code
from jobs import Jobs
from origins import Origins
from plan import QUESTIONS, Plan, WorkflowError
from schema import of_split
from trueshift.data import split_settings

CODE = Code(ROOT)
NO_FILES = Origins([], {})
LINES = {
    "kind": "profile",
    "source": {"format": "pdgrapher", "files": {"A549": "{data}/a.pt", "PC3": {"path": "{data}/p.pt"}}},
    "columns": {
        "perturbation": {"from": "perturbation", "control": "control"},
        "context": "cell_id",
        "smiles": "smiles",
        "keep": ["idx"],
    },
    "splits": {
        "published": {"type": "pdgrapher", "files": {"A549": "{data}/folds/A549.pt", "PC3": "{data}/folds/PC3.pt"}},
        "doses": {"type": "unseen_dose", "folds": {"high": [10, 3.33]}},
        "scaffolds": {"type": "unseen_scaffold", "k": 3},
        "lines": {"type": "zero_shot_context", "k": 2},
        "mine": {"type": "file", "folds": {"a": "{data}/a.csv", "b": "{data}/b.csv"}, "asks": "new_dose"},
    },
}


@pytest.fixture
def config(tmp_path):
    """The project's configuration with a dataset of profiles, whose files are not there yet."""
    merged = default_configuration()
    merged["data_folder"] = str(tmp_path)
    merged["datasets"] = {"lines": copy.deepcopy(LINES)}
    merged["run"] |= {"datasets": ["lines"], "splits": ["all"]}
    (tmp_path / "folds").mkdir()
    return merged


def jobs(config, **how):
    return Jobs(Plan(config, CODE), **how)


def wildcards(split, fold):
    return SimpleNamespace(dataset="lines", split=split, fold=fold, model="no_change", variant="default", seed="0")


def test_the_driver_and_the_library_agree_on_what_splits_ask_and_take():
    assert tuple(split_settings.QUESTIONS) == tuple(QUESTIONS)
    assert sorted(CODE.modules(SPLITS)) == sorted(split_settings.TYPES)
    for name, file in CODE.modules(SPLITS).items():
        module, read = split_settings.type_of({"type": name}), CODE.constants(file)
        assert read["SETTINGS"] == module.SETTINGS
        assert read["ASKS"] == module.ASKS and module.ASKS in (None, *QUESTIONS)
        assert hasattr(module, "tested") != hasattr(module, "listed")
        keys = of_split(CODE, name)["properties"]
        assert keys.keys() == {*split_settings.COMMON, *module.SETTINGS}
        assert all("description" in key for setting, key in keys.items() if setting != "type")


def test_the_schema_takes_them_and_refuses_mistakes(config):
    check_config(config, CODE, NO_FILES)
    entry = config["datasets"]["lines"]
    entry["splits"]["published"]["k"] = 1
    check_config(config, CODE, NO_FILES)
    for split, message in (
        ({"type": "pdgrapher"}, "'files' is a required property"),
        ({"type": "kfold_cells", "k": 1}, "1 is less than the minimum of 2"),
        ({"type": "unseen_doses"}, "did you mean 'unseen_dose'"),
        ({"type": "pdgrapher", "files": {}}, "files"),
    ):
        with pytest.raises(WorkflowError, match=message):
            check_config({**config, "datasets": {"lines": {**entry, "splits": {"x": split}}}}, CODE, NO_FILES)
    entry["source"] = {"format": "pdgrapher", "path": "{data}/a.pt"}
    with pytest.raises(WorkflowError, match="files"):
        check_config(config, CODE, NO_FILES)


def test_folds(config):
    plan = Plan(config, CODE)
    assert plan.folds("lines", "published") == ["1", "2", "3", "4", "5"]
    assert plan.folds("lines", "lines") == ["1", "2"]
    assert plan.folds("lines", "doses") == ["high"]
    config["datasets"]["lines"]["splits"]["published"]["k"] = 1
    assert Plan(config, CODE).folds("lines", "published") == ["1"]


def test_models_that_know_nothing_of_doses_are_left_out(config):
    config["models"]["no_dose"] = {**config["models"]["no_change"], "can": ["seen", "new_perturbation", "new_context"]}
    config["models"]["no_dose"]["kinds"] = ["profile"]
    plan = Plan(config, CODE)
    reasons = {split: plan.unfit("lines", split, "no_dose", "default") for split in LINES["splits"]}
    wanted = "no_dose cannot predict doses it never saw of perturbations it did"
    assert reasons == {"published": None, "doses": wanted, "scaffolds": None, "lines": None, "mine": wanted}


def test_files_of_folds_are_found_and_a_change_of_theirs_reruns_the_split(config, tmp_path):
    plan = Plan(config, CODE)
    placed = json.loads(Jobs(plan).stage("split")(wildcards("published", "1")))
    assert placed["files"] == {line: str(tmp_path / f"folds/{line}.pt") for line in ("A549", "PC3")}
    assert json.loads(Jobs(plan).stage("split")(wildcards("mine", "a")))["folds"]["b"] == str(tmp_path / "b.csv")
    assert json.loads(Jobs(plan).stage("split")(wildcards("doses", "high"))) == LINES["splits"]["doses"]
    told = json.loads(Jobs(plan).stage("partition")(wildcards("published", "1")))["split"]
    assert told == LINES["splits"]["published"], "partition reads no file, so the data folder is none of its affairs"
    assert Jobs(plan).split_files(wildcards("published", "1")) == []  # the script says which is missing
    for name in ("folds/A549.pt", "folds/PC3.pt", "a.csv", "b.csv"):
        (tmp_path / name).touch()
    assert Jobs(plan).split_files(wildcards("published", "3")) == list(placed["files"].values())
    assert Jobs(plan).split_files(wildcards("mine", "b")) == [str(tmp_path / "b.csv")]
    assert Jobs(plan).split_files(wildcards("doses", "high")) == []


def test_the_files_of_all_cell_lines_are_sources(config, tmp_path):
    assert jobs(config).source_files(wildcards("published", "1")) == []
    for name in ("a.pt", "p.pt"):
        (tmp_path / name).touch()
    assert [Path(path).name for path in jobs(config).source_files(wildcards("published", "1"))] == [
        "a.pt",
        "p.pt",
    ]
