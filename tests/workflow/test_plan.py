"""The driver's reading of the configuration: what runs, what is left out, what a job is told."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from project import ROOT, default_configuration

from checks import check_config
from code_hash import READERS, SPLITS, Code
from jobs import STARTER, Jobs
from origins import Origins
from plan import FIELD_K, FIELD_METRICS, Plan, WorkflowError
from trueshift.report import legacy

CODE = Code(ROOT)
NO_FILES = Origins([], {})


@pytest.fixture
def config():
    """The project's configuration, as Snakemake merges it."""
    return default_configuration()


def jobs(config, **how):
    return Jobs(Plan(config, CODE), **how)


def wildcards(**names):
    default = {"dataset": "simulated", "split": "new_context", "fold": "c1", "model": "state", "variant": "small"}
    return SimpleNamespace(**{**default, "seed": "0", **names})


def test_the_floors_always_run(config):
    config["run"]["models"] = ["additive"]
    models = {chain.model for chain in Plan(config, CODE).chains}
    assert models == {"additive", "no_change", "mean_shift"}


def test_the_fields_table_is_made_where_all_that_it_needs_is_scored(config):
    made = ["results/tables/topk_r2_results.csv", "results/figures/two_orders.png"]
    assert Plan(config, CODE).field_table() == made
    assert {*legacy.LEGACY, *legacy.HONEST} == set(FIELD_METRICS)
    assert legacy.K == FIELD_K
    for key, needed in (("metrics", FIELD_METRICS), ("k", map(int, FIELD_K))):
        for name in needed:
            less = [value for value in config["evaluation"][key] if value != name]
            assert not Plan({**config, "evaluation": config["evaluation"] | {key: less}}, CODE).field_table()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"dataset": "simulatd"}, "unknown dataset 'simulatd'; did you mean 'simulated'?"),
        ({"split": "new_contxt"}, "unknown split 'new_contxt'; did you mean 'new_context'?"),
        ({"fold": "c"}, "unknown fold 'c'; did you mean 'c1'?"),
        ({"model": "stat"}, "unknown model 'stat'; did you mean 'state'?"),
        ({"variant": "tny"}, "unknown variant 'tny'; did you mean 'tiny'?"),
        ({"split": "new_combination", "fold": "pairs", "model": "scgen"}, "scgen cannot predict combinations"),
    ],
)
def test_a_target_that_names_what_there_is_not_is_refused(config, names, message):
    with pytest.raises(WorkflowError, match=re.escape(message)):
        Plan(config, CODE).check(wildcards(**names))


def test_deterministic_models_run_one_seed(config):
    config["run"].update(models=["additive", "state/small"], seeds=[4, 7])
    chains = [chain for chain in Plan(config, CODE).chains if chain.split == "new_context"]
    assert {chain.seed for chain in chains if chain.model == "additive"} == {4}
    assert {chain.seed for chain in chains if chain.model == "state"} == {4, 7}


def test_a_kind_a_model_does_not_read_excludes_it(config):
    config["datasets"]["simulated"]["kind"] = "signature"
    plan = Plan(config, CODE)
    assert not plan.chains
    assert {row["reason"] for row in plan.exclusions if row["model"] == "state"} == {
        "state does not read data of kind signature"
    }


def test_models_that_need_features_are_left_out_where_there_are_none(config):
    entry = config["datasets"]["simulated"]
    entry.pop("features")
    assert json.loads(jobs(config).settings(wildcards(model="linear", variant="default")))["params"] == {
        "features": "target_expression"
    }
    entry.pop("targets_measured")
    reasons = {row["model"]: row["reason"] for row in Plan(config, CODE).exclusions if row["split"] == "new_context"}
    assert reasons["linear"] == "linear needs perturbation features; simulated has none"
    assert "state" not in reasons


@pytest.mark.parametrize("given", [{"columns": {"smiles": "smiles"}}, {"structures": "{data}/s.csv"}])
def test_models_that_need_structures_are_left_out_where_there_are_none(config, given):
    config["models"]["linear"]["needs"] = ["structures"]
    reasons = {row["model"]: row["reason"] for row in Plan(config, CODE).exclusions if row["split"] == "new_context"}
    assert reasons["linear"] == "linear needs structures (SMILES); simulated has none"
    config["datasets"]["simulated"] |= given
    assert "linear" not in {row["model"] for row in Plan(config, CODE).exclusions}


def test_a_job_is_told_what_its_model_needs_to_know_of_perturbations(config):
    config["models"]["linear"]["needs"] = ["features", "pairs", "structures"]
    config["datasets"]["simulated"]["structures"] = "s.csv"
    plan = Plan(config, CODE)
    told = json.loads(Jobs(plan).settings(wildcards(model="linear", variant="default")))
    wanted = {"params": {"features": "programs"}, "needs": ["features", "structures"]}
    assert told == {"class": "trueshift.models.linear.Linear", **wanted}
    assert "needs" not in json.loads(Jobs(plan).settings(wildcards()))


def test_an_import_depends_on_the_files_of_structures_and_features_but_not_on_words(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("s.csv", "f.csv", "kpgt.pickle", "morgan", "descriptors", "simulated"):
        (tmp_path / name).touch()
    config["data_folder"] = str(tmp_path)
    config["datasets"]["simulated"] |= {
        "structures": {"path": "{data}/s.csv"},
        "features": {"a": "morgan", "b": "descriptors", "c": "simulated", "d": "f.csv"}
        | {"kpgt": {"path": "{data}/kpgt.pickle", "key": "smiles"}},
    }
    plan = Plan(config, CODE)
    assert Jobs(plan).source_files(wildcards()) == ["f.csv", f"{tmp_path}/kpgt.pickle", f"{tmp_path}/s.csv"]
    told = json.loads(Jobs(plan).stage("import")(wildcards()))
    assert told["structures"] == {"path": "{data}/s.csv"} and told["features"]["kpgt"]["key"] == "smiles"
    check_config(config, CODE, NO_FILES)
    config["datasets"]["simulated"]["features"]["kpgt"]["key"] = "smile"
    with pytest.raises(WorkflowError, match=r"features\.kpgt\.key: unknown value 'smile'; did you mean 'smiles'"):
        check_config(config, CODE, NO_FILES)


def test_a_file_with_an_address_is_fetched_and_no_input_be_it_there_or_not(config, tmp_path):
    config["data_folder"] = str(tmp_path)
    plan = Plan(config, CODE)
    assert Jobs(plan).fetched(wildcards()) == []
    assert "results/benchmarks/simulated/fetch.tsv" not in plan.all_benchmarks()
    with pytest.raises(WorkflowError, match="simulated has no file with a url"):
        Jobs(plan).remote_files(wildcards())

    address, checksum = "https://example.org/x", "0" * 64
    remote = {name: {"path": f"{{data}}/{name}", "url": address, "sha256": checksum} for name in ("m", "f", "s")}
    near = {name: f"{{data}}/{name}" for name in ("barcodes", "genes", "cells", "g")}
    config["datasets"]["simulated"] |= {
        "source": {"format": "mtx", "matrix": remote["m"] | {"obtain": "ask"}, "metadata": near["cells"]}
        | {name: near[name] for name in ("barcodes", "genes")},
        "columns": {"perturbation": {"from": "guide", "control": None}, "context": "line"},
        "features": {"a": remote["f"] | {"key": "smiles"}, "b": near["g"], "c": "morgan"},
        "structures": remote["s"],
    }
    check_config(config, CODE, NO_FILES)
    plan = Plan(config, CODE)
    told = Jobs(plan).remote_files(wildcards())
    assert json.loads(told) == [remote["m"], remote["f"], remote["s"]]
    assert Jobs(plan).source_files(wildcards()) == []
    for name in (*remote, *near):
        (tmp_path / name).touch()
    assert sorted(Jobs(plan).source_files(wildcards())) == sorted(f"{tmp_path}/{name}" for name in near)
    assert Jobs(plan).remote_files(wildcards()) == told
    assert Jobs(plan).fetched(wildcards()) == ["results/simulated/fetched.json"]
    assert plan.all_benchmarks()[0] == "results/benchmarks/simulated/fetch.tsv"


@pytest.mark.parametrize("fact", ["url", "sha256", "path"])
def test_a_fetch_is_told_all_that_it_depends_on(config, fact):
    source = {"format": "h5ad", "path": "{data}/x.h5ad", "url": "https://example.org/x", "sha256": "0" * 64}
    config["datasets"]["simulated"]["source"] = {**source, "layer": "counts"}
    before = jobs(config).remote_files(wildcards())
    assert json.loads(before) == [{key: value for key, value in source.items() if key != "format"}]
    config["datasets"]["simulated"]["source"]["layer"] = "other"
    assert jobs(config).remote_files(wildcards()) == before
    config["datasets"]["simulated"]["source"][fact] += "1"
    assert jobs(config).remote_files(wildcards()) != before


def test_the_files_of_a_folder_are_sources(config, tmp_path):
    folder = tmp_path / "tenx"
    (folder / "inside").mkdir(parents=True)
    for name in ("matrix.mtx.gz", "barcodes.tsv.gz", ".hidden"):
        (folder / name).touch()
    config["data_folder"] = str(tmp_path)
    config["datasets"]["simulated"] |= {
        "source": {"format": "tenx", "path": "{data}/tenx", "metadata": "{data}/absent.csv"},
        "columns": {"perturbation": {"from": "guide", "control": None}, "context": "line"},
    }
    check_config(config, CODE, NO_FILES)
    found = [Path(path).name for path in jobs(config).source_files(wildcards())]
    assert found == ["barcodes.tsv.gz", "matrix.mtx.gz"]


def test_every_dataset_is_gathered_once(config):
    assert Plan(config, CODE).all_of_datasets("features.csv") == ["results/simulated/features.csv"]


def test_a_setting_reaches_only_the_stage_that_reads_it(config):
    before = {stage: jobs(config).stage(stage)(wildcards()) for stage in ("import", "qc", "normalize", "genes")}
    config["datasets"]["simulated"]["qc"]["min_cells"] = 21
    after = {stage: jobs(config).stage(stage)(wildcards()) for stage in before}
    assert {stage for stage in before if before[stage] != after[stage]} == {"qc"}


def test_a_variant_chooses_its_pairs(config):
    plan = Plan(config, CODE)
    assert Jobs(plan).train_inputs(wildcards())["pairs"] == ["results/simulated/new_context/c1/pairs_S32.npz"]
    assert Jobs(plan).train_inputs(wildcards(variant="S256"))["pairs"] == [
        "results/simulated/new_context/c1/pairs_S256.npz"
    ]
    assert Jobs(plan).train_inputs(wildcards(model="additive", variant="default"))["pairs"] == []


def test_a_variant_adds_to_the_one_it_is_based_on(config):
    plan = Plan(config, CODE)
    small, larger = (json.loads(Jobs(plan).settings(wildcards(variant=name)))["params"] for name in ("small", "S64"))
    assert larger == {**small, "set_size": 64}
    variants = config["models"]["state"]["variants"]
    variants |= {"wider": {"base": "S64", "hidden": 99}, "same": {"base": "default"}}
    wider = json.loads(jobs(config).settings(wildcards(variant="wider")))["params"]
    assert wider == {**larger, "hidden": 99}, "and to what that is based on"
    assert json.loads(jobs(config).settings(wildcards(variant="same")))["params"] == plan.model("state")["params"]


def test_a_model_books_first_what_it_says_then_what_its_rule_then_what_every_rule(config):
    config["resources"] = {"every": {"mem_mb": 100, "runtime": 10, "partition": "cpu"}, "train": {"runtime": 99}}
    config["models"]["state"] |= {"mem_mb": 700, "gpu": 2}
    booked = jobs(config, submits=True).resources("train")
    for model, wanted in (("state", [700, 99, 2]), ("additive", [100, 99, 0])):
        asked = wildcards(model=model)
        assert [booked["mem_mb"](asked, 1), booked["runtime"](asked, 1), booked["gpu"](asked)] == wanted
    score = jobs(config, submits=True).resources("score")
    assert score["mem_mb"](wildcards(), 1) == 100
    assert "gpu" not in score
    assert score["slurm_partition"] == "cpu"


def test_a_job_submitted_again_books_more_memory_and_time(config):
    booked = jobs(config, submits=True).resources("qc")
    first, third = ([booked[name](wildcards(), attempt) for name in ("mem_mb", "runtime")] for attempt in (1, 3))
    assert third == [3 * value for value in first]


def test_what_runs_here_books_memory_and_devices_alone(config):
    plan = Plan(config, CODE)
    assert set(Jobs(plan).resources("train")) == {"mem_mb", "gpu"}
    assert Jobs(plan).resources("qc") == {"mem_mb": config["resources"]["qc"]["mem_mb"]}


def test_models_that_declare_threads_get_them(config):
    assert jobs(config).threads == 1
    config["models"]["state"]["threads"] = 4
    plan = Plan(config, CODE)
    assert [Jobs(plan).threads(wildcards()), Jobs(plan).threads(wildcards(model="additive"))] == [4, 1]
    assert "OMP_NUM_THREADS=4" in Jobs(plan).thread_variables(wildcards())


def test_only_jobs_with_a_gpu_go_to_its_partition(config):
    config["resources"] |= {"every": {"mem_mb": 1, "runtime": 1, "partition": None}}
    config["resources"]["train"] = {"gpu_partition": "a100"}
    partition = jobs(config, submits=True).resources("train")["slurm_partition"]
    assert [partition(wildcards()), partition(wildcards(model="additive"))] == ["a100", None]
    config["resources"]["every"]["partition"] = "short"
    config["resources"]["train"] = {}
    partition = jobs(config, submits=True).resources("train")["slurm_partition"]
    assert partition(wildcards()) == "short", "without a partition of its own a GPU job goes where all go"


def test_the_code_of_a_model_is_its_file_and_what_it_imports(config, tmp_path):
    package = tmp_path / "src/trueshift/models"
    package.mkdir(parents=True)
    for folder in (READERS, SPLITS):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "workflow/scripts").mkdir(parents=True)
    (tmp_path / "workflow/scripts/train.py").write_text("from trueshift.models.base import build\n")
    starter = tmp_path / STARTER
    starter.write_text("run = 1\n")
    base, one, two = (package / f"{name}.py" for name in ("base", "one", "two"))
    base.write_text("build = 1\n")
    one.write_text('"""Words."""\nfrom trueshift.models.two import x\n')
    two.write_text("x = 1\n")
    config["run"]["models"] = []
    config["models"]["one"] = {**config["models"]["additive"], "class": "trueshift.models.one.One"}

    def code():
        return Jobs(Plan(config, Code(tmp_path))).model_code("train")(wildcards(model="one"))

    first = code()
    one.write_text('"""Other words."""\n# a comment\nfrom trueshift.models.two import x\n')
    assert code() == first
    two.write_text("x = 2\n")
    second = code()
    assert second != first
    base.write_text("build = 2\n")
    third = code()
    assert third not in (first, second)
    starter.write_text("run = 2\n")
    assert code() not in (first, second, third)


@pytest.mark.parametrize("name", ["real", "lincs", "everything"])
def test_configurations_that_come_along_are_valid_and_plan(config, name):
    more = yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())
    merged = {**config, **more, "run": {**config["run"], **more["run"]}}
    merged["datasets"] = {**config["datasets"], **more.get("datasets", {})}
    check_config(merged, CODE, NO_FILES)
    plan = Plan(merged, CODE)
    assert {chain.dataset for chain in plan.chains} == set(merged["run"]["datasets"])
    ran = {chain.model for chain in plan.chains}
    if name == "everything":  # what environments are built from, and tests run in
        environments = {plan.model(model)["env"] for model in ran}
        assert environments == {entry["env"] for entry in config["models"].values()}
    if name != "real":
        assert {item.partition("/")[0] for item in merged["run"]["models"]} <= ran
