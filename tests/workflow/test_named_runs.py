"""Runs with a name keep their tables and figures apart; one that would replace others' tables says so."""

import subprocess

import pytest
import yaml
from project import MINI, ROOT, default_configuration

from checks import check_config
from code_hash import Code
from named_runs import replaced
from origins import Origins
from plan import RESERVED, Plan, WorkflowError

CODE = Code(ROOT)
NO_FILES = Origins([], {})


@pytest.fixture
def config():
    """The default configuration with the dataset of the mini configuration."""
    merged = default_configuration()
    mini = yaml.safe_load(MINI.read_text())
    merged["datasets"] |= mini["datasets"]
    merged["run"] |= mini["run"]
    return merged


def test_without_a_name_every_path_stays(config):
    plan = Plan(config, CODE)
    assert plan.table("x.csv") == "results/tables/x.csv"
    assert plan.figure("x.png") == "results/figures/x.png"
    assert plan.log("x") == "results/logs/x.log"
    assert plan.benchmark("x") == "results/benchmarks/x.tsv"


def test_with_a_name_what_is_of_the_run_is_below_it_and_what_is_of_data_and_models_is_not(config):
    before = Plan(config, CODE)
    config["run"]["name"] = "mine"
    plan = Plan(config, CODE)
    made = [plan.table("x.csv"), plan.figure("x.png"), plan.log("x"), plan.benchmark("x")]
    assert all(path.startswith("results/runs/mine/") for path in made)
    assert plan.all_scores() == before.all_scores()
    assert plan.all_costs() == before.all_costs()


@pytest.mark.parametrize("name", ["everything", "lincs", "real"])
def test_configurations_that_come_along_have_a_name(name):
    assert yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())["run"]["name"] == name


@pytest.mark.parametrize("name", RESERVED)
def test_no_dataset_is_called_like_a_folder_of_results(config, name):
    config["datasets"][name] = config["datasets"]["mini"]
    with pytest.raises(WorkflowError, match=f"results/{name} "):
        check_config(config, CODE, NO_FILES)


def test_a_run_says_which_lines_of_the_tables_it_takes_out(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not replaced(Plan(config, CODE)), "no table is there yet"
    lines = sorted({(c.dataset, c.split, c.model, c.variant) for c in Plan(config, CODE).chains})
    table = tmp_path / "results/tables/topk_r2_wide.csv"
    table.parent.mkdir(parents=True)
    table.write_text("\n".join(["dataset,split,model,variant,r2_top20", *(",".join(line) + ",0.1" for line in lines)]))
    assert not replaced(Plan(config, CODE)), "the same selection"
    config["run"]["models"] = ["additive"]
    said = replaced(Plan(config, CODE))
    assert said.startswith("results/tables: ") and "mini/new_combination/ridge_control/default" in said
    config["run"]["name"] = "mine"
    assert not replaced(Plan(config, CODE)), "it goes elsewhere"


def score_others(project, file, *more):
    command = [project.driver / "bin/python", "workflow/score_others.py", file, "--dataset", "mini", *more]
    done = subprocess.run(command, cwd=project.folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_name_that_holds_the_scores_of_another_file_is_refused(finished, tmp_path):
    one, other = (tmp_path / name / "theirs.h5ad" for name in ("one", "other"))
    for file in (one, other):
        file.parent.mkdir()
        file.touch()
    folder = finished.folder / "results/runs/theirs"
    (folder / "tables").mkdir(parents=True)
    entry = {"path": str(one), "dataset": "mini", "split": "new_context"}
    (folder / "score_others.yaml").write_text(yaml.safe_dump({"predictions": {"theirs": entry}}))
    configuration = ["--configfile", str(MINI), "-n", "--conda-prefix", str(ROOT / ".snakemake/conda")]
    status, said = score_others(finished, other, "--split", "new_context", *configuration)
    assert status == 1 and f"results/runs/theirs holds {one} on mini/new_context" in said
    status, said = score_others(finished, one, "--split", "new_combination", *configuration)
    assert status == 1 and "--name" in said
    status, said = score_others(finished, one, "--split", "new_context", *configuration)
    assert status == 0, said
    status, said = score_others(finished, other, "--split", "new_context", "--name", "second", *configuration)
    assert status == 0, said
    assert "results/runs/second" in (finished.folder / "results/runs/second/score_others.yaml").as_posix()
    status, said = score_others(finished, other, "--split", "new_context", "--name", "a/b")
    assert status == 1 and "a/b" in said
