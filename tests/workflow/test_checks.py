"""What is wrong with a configuration is said before anything runs: the file and line, the key, and what to write."""

import re

import pytest
import yaml
from project import ROOT, Project, default_configuration
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

from checks import check_config
from code_hash import READERS, SPLITS, Code
from origins import Origins
from schema import keys, of_format, of_split, parameters
from trueshift.data.loading import FORMATS
from trueshift.data.split_settings import TYPES
from trueshift.evaluation.registry import METRICS

CODE = Code(ROOT)
DEFAULTS = [ROOT / f"config/{name}.yaml" for name in ("config", "datasets", "models")]
COLUMNS = {"perturbation": {"from": "guide", "control": "NT"}, "context": "line"}
FILE = {"path": {"type": "string"}}
EACH_LINE = {"each": {"type": "zero_shot_context", "k": 2}}
SCREEN = {"kind": "counts", "source": {"format": "h5ad", "path": "x"}, "columns": COLUMNS, "splits": EACH_LINE}


@pytest.fixture
def faults(tmp_path):
    """A function: what is said of files that hold mappings, given in that order after the defaults."""

    def of(*parts, given=None):
        config, files = default_configuration(), []
        for number, part in enumerate(parts):
            files.append(tmp_path / f"my{number or ''}.yaml")
            files[-1].write_text(part if isinstance(part, str) else yaml.safe_dump(part, sort_keys=False))
            update_config(config, yaml.safe_load(files[-1].read_text()))
        update_config(config, given or {})
        with pytest.raises(WorkflowError) as error:
            check_config(config, CODE, Origins([*DEFAULTS, *files], given or {}))
        return str(error.value).replace(f"{tmp_path}/", "").split("\n  ")[1:]

    return of


def misspelt(name):
    return name[:-1] + "zz" if len(name) > 3 else f"{name}zz"


def test_a_misspelt_parameter_of_every_model_source_split_and_metric_is_refused_by_a_dry_run(tmp_path):
    """One dry run: each registered name in one file, with its first parameter misspelt."""
    config = {"evaluation": {"metrics": [misspelt(metric) for metric in METRICS]}, "datasets": {}, "models": {}}
    wanted = [f"evaluation.metrics.{i}: unknown value '{misspelt(name)}'" for i, name in enumerate(METRICS)]
    for name in FORMATS:
        key = next(key for key in of_format(CODE, name, FILE)["properties"] if key != "format")
        source = {"format": name, misspelt(key): 1}
        config["datasets"][f"of_{name}"] = {**SCREEN, "source": source}
        wanted.append(f"datasets.of_{name}.source: format {name} has no key '{misspelt(key)}'")
    for name in TYPES:
        key = next(key for key in of_split(CODE, name)["properties"] if key != "type")
        config["datasets"][f"with_{name}"] = {**SCREEN, "splits": {"x": {"type": name, misspelt(key): 1}}}
        wanted.append(f"datasets.with_{name}.splits.x: type {name} has no key '{misspelt(key)}'")
    for name, entry in default_configuration()["models"].items():
        known = parameters(CODE, entry["class"])["properties"]
        key = misspelt(next(iter(known), "scope"))
        config["models"][name] = {"params": {key: 1}, "variants": {"mine": {key: 1}}}
        wanted += [f"models.{name}.{place}: unknown key '{key}'" for place in ("params", "variants.mine")]
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump(config))
    shown = Project(tmp_path / "project").snakemake("-n", check=False, more=file)
    assert shown.returncode != 0
    lines = file.read_text().splitlines()
    for words in wanted:
        found = re.search(rf"{re.escape(str(file))}:(\d+): {re.escape(words)}(; did you mean '(\w+)')?", shown.stdout)
        assert found, words
        assert misspelt("").join(words.split("'")[1:2]) in lines[int(found[1]) - 1]
    assert shown.stdout.count("did you mean") > len(wanted) / 2


@pytest.mark.parametrize(
    ("part", "place", "words"),
    [
        ({"run": {"modles": ["state"]}}, "my.yaml:2: run", "'modles'; did you mean 'models'?"),
        ({"run": {"models": ["ridge"]}}, "my.yaml:3: run.models", "unknown model 'ridge'"),
        ({"run": {"models": ["state/smal"]}}, "my.yaml:3: run.models", "'smal'; did you mean 'small'?"),
        ({"run": {"datasets": ["simulatd"]}}, "my.yaml:3: run.datasets", "'simulatd'; did you mean 'simulated'?"),
        ({"run": {"splits": ["new_contxt"]}}, "my.yaml:3: run.splits", "'new_contxt'; did you mean 'new_context'?"),
        ({"run": {"predictions": ["theirs"]}}, "my.yaml:3: run.predictions", "unknown prediction 'theirs'"),
        ({"run": {"datasets": ["../mini"]}}, "my.yaml:3: run.datasets.0", "becomes part of a path"),
        ({"datasets": {"a b": SCREEN}}, "my.yaml:2: datasets.a b", "becomes part of a path"),
        ({"datasets": {"x" * 101: SCREEN}}, "my.yaml:2: datasets.xxx", "becomes part of a path"),
        ({"datasets": {"tables": SCREEN}}, "my.yaml:2: datasets.tables", "choose another name"),
        ({"evaluation": {"k": [21]}}, "my.yaml:3: evaluation.k.0", "unknown value '21'"),
        ({"resources": {"trian": {"mem_mb": 200}}}, "my.yaml:2: resources", "'trian'; did you mean 'train'?"),
        ({"models": {"state": {"gpus": 1}}}, "my.yaml:3: models.state", "'gpus'; did you mean 'gpu'?"),
        ({"models": {"state": {"env": "toch"}}}, "my.yaml:3: models.state.env", "'toch'; did you mean 'torch'?"),
        (
            {"models": {"state": {"class": "trueshift.models.state.Stat"}}},
            "my.yaml:3: models.state.class",
            "did you mean 'trueshift.models.state.State'?",
        ),
        (
            {"models": {"state": {"variants": {"a": {"base": "b"}, "b": {"base": "a"}}}}},
            "my.yaml:7: models.state.variants.b.base",
            "in a circle",
        ),
        ({"models": {"state": {"variants": {"a": {"base": "smal"}}}}}, "my.yaml:5:", "did you mean 'small'?"),
    ],
)
def test_a_fault_is_named_with_its_file_and_line(faults, part, place, words):
    found = faults(part)
    assert any(line.startswith(place) and words in line for line in found), found


@pytest.mark.parametrize(
    ("part", "place", "words"),
    [
        ({"datasets": {"simulated": {"qc": {"n_top": 5}}}}, "datasets.simulated.qc", "datasets.*.genes.n_top"),
        ({"datasets": {"simulated": {"min_cells": 5}}}, "datasets.simulated", "datasets.*.qc.min_cells"),
        ({"metrics": ["mse"]}, "top level", "evaluation.metrics"),
        ({"models": {"state": {"hidden": 8}}}, "models.state", "write it under params:"),
    ],
)
def test_a_key_in_the_wrong_section_is_told_the_right_one(faults, part, place, words):
    (line,) = faults(part)
    assert f": {place}: " in line and words in line


@pytest.mark.parametrize(
    ("part", "key", "words"),
    [
        ({"datasets": {"simulated": {"qc": {"min_genes": "many"}}}}, "qc.min_genes", "a whole number"),
        ({"datasets": {"simulated": {"source": {"genes": 3.5}}}}, "source.genes", "a whole number"),
        ({"datasets": {"simulated": {"source": {"doses": 3}}}}, "source.doses", "a list"),
        ({"models": {"state": {"params": {"hidden": "big"}}}}, "params.hidden", "a whole number"),
        ({"models": {"state": {"params": {"loss": "energie"}}}}, "params.loss", "did you mean 'energy'?"),
        ({"models": {"multidcp": {"params": {"cell": 3}}}}, "params.cell", "a list"),
        ({"evaluation": {"interpolated_duplicate": "yes please"}}, "interpolated_duplicate", "true or false"),
        ({"run": "state"}, "run", "a mapping"),
        ("models: {state: {params: {learning_rate: 1e-3}}}", "params.learning_rate", "write 0.001"),
        ("models: {state: {params: {learning_rate: 5e-5}}}", "params.learning_rate", "write 5.0e-05"),
        ({"models": {"state": {"params": {"set_size": 64.0}}}}, "params.set_size", "write 64"),
        ({"models": {"state": {"params": {"seed": 3}}}}, "models.state.params", "run.seeds"),
        ({"run": {"seeds": ["0"]}}, "run.seeds.0", "write 0"),
        ({"evaluation": {"k": [20.0]}}, "evaluation.k.0", "write 20"),
        ({"datasets": {"simulated": {"normalize": {"target_sum": "1e4"}}}}, "normalize.target_sum", "write 10000.0"),
        ({"datasets": {"simulated": {"partition": {"scale": True}}}}, "partition.scale", "null or a mapping"),
        ({"datasets": {1: SCREEN}}, "datasets.1", "quote it"),
        ({"datasets": {True: SCREEN}}, "datasets.True", "quote it"),
        ({"tracking": {"wandb": None}}, "tracking.wandb", "unknown value null (known"),
        ({"datasets": {"mine": {**SCREEN, "source": {"path": "x"}}}}, "datasets.mine.source", "'format' is a required"),
        ({"datasets": {"mine": {**SCREEN, "splits": {"x": {"k": 3}}}}}, "splits.x", "'type' is a required"),
        ({"datasets": {"mine": SCREEN | {"qc": {"max_mito": 20}}}}, "qc.max_mito", "0.2 for 20%"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(faults, part, key, words):
    found = faults(part)
    assert any(f"{key}: " in line and words in line for line in found), found


@pytest.mark.parametrize(
    ("entry", "key", "words"),
    [
        ({"columns": {**COLUMNS, "perturbation": "guide"}}, "columns.perturbation", "control"),
        ({"columns": {"perturbation": COLUMNS["perturbation"]}}, "datasets.mine.columns", "context"),
        ({"columns": {**COLUMNS, "batch": {"from": "x", "extract": "(K56"}}}, "columns.batch.extract", "(K56"),
        ({"columns": {**COLUMNS, "batch": {"from": "x", "extract": "K56"}}}, "columns.batch.extract", "no group"),
        ({"columns": {**COLUMNS, "batch": {"from": "x", "value": "y"}}}, "columns.batch", "give one"),
        ({"features": {"f": "morgn"}}, "features.f", "did you mean 'morgan'?"),
        ({"source": {"format": "h5ad", "path": "{dat}/x.h5ad"}}, "source.path", "{data} is the data folder"),
        ({"splits": {"x": {"type": "unseen_scaffold", "k": 3}}}, "splits.x", "needs structures"),
    ],
)
def test_what_the_entry_of_a_dataset_says_wrong_whatever_its_data_are(faults, entry, key, words):
    found = faults({"datasets": {"mine": {**SCREEN, **entry}}})
    assert len(found) == 1 and f"{key}: " in found[0] and words in found[0], found


@pytest.mark.parametrize("cls", ["base.Model", "base.CannotLearnError", "state_network.StateNetwork"])
def test_a_class_that_is_no_model_is_refused(faults, cls):
    (line,) = faults({"models": {"state": {"class": f"trueshift.models.{cls}"}}})
    assert f"no model 'trueshift.models.{cls}'" in line
    assert "trueshift.models.scgen.ScGen" in line and "CannotLearn" not in line.split("there are")[1]


def test_a_prediction_for_what_there_is_not_is_refused(faults):
    (line,) = faults({"predictions": {"theirs": {"path": "x.h5ad", "dataset": "simulatd", "split": "x"}}})
    assert line.startswith("my.yaml:4: predictions.theirs.dataset") and "did you mean 'simulated'?" in line


def test_a_key_that_stands_twice_is_named(faults):
    (line,) = faults("run:\n  seeds: [1]\n  models: [state]\n  seeds: [2]\n")
    assert "run.seeds: stands a second time in my.yaml:4" in line


def test_values_that_are_right_are_taken(tmp_path):
    """Whole numbers where any number will do, null where that is the default, and what YAML writes in other ways."""
    config = default_configuration()
    update_config(
        config,
        yaml.safe_load(
            """
            run: {models: [state/mine, state/default]}
            datasets:
              simulated:
                qc: {min_genes: 0, max_mito: null}
                normalize: {target_sum: median}
                partition: {scale: {max_value: 10}, regress_out: []}
                source: {doses: [1], effect: 1}
            models:
              state:
                params: {features: null, learning_rate: 1, weight_decay: .5, sigma: median}
                variants: {mine: {base: default, hidden: 1_000, sigma: 2}}
            """
        ),
    )
    config["datasets"]["mine"] = {
        **SCREEN,
        "source": {"format": "h5ad", "path": "{data}/x.h5ad", "url": "https://example.org/x", "sha256": "A" * 64},
        "splits": {"x": {"type": "unseen_dose", "folds": {"a": [10, 3.3]}, "cluster": "modality"}},
    }
    check_config(config, CODE, Origins(DEFAULTS, {}))


def test_what_two_files_say_together_is_named_with_both(faults):
    changed = {"datasets": {"simulated": {"source": {"format": "h5ad", "path": "x"}}}}
    (line,) = faults(changed)
    assert line.startswith("config/datasets.yaml:") and "name of its own" in line
    assert "format h5ad has no key 'seed'; my.yaml:2 changes datasets.simulated" in line

    splits = {"x": {"type": "zero_shot_context", "k": 3}}
    named = {"datasets": {"mine": {"splits": {"x": {"folds": {"a": "A549"}}}}}}
    (line,) = faults({"datasets": {"mine": {**SCREEN, "splits": splits}}}, named)
    assert re.match(r"my.yaml:\d+: datasets.mine.splits.x.k: both k and folds \(my1.yaml:5\)", line)


def test_a_fault_on_the_command_line_is_said_to_be_there(faults):
    (line,) = faults(given={"run": {"seedz": [1]}})
    assert line.startswith("--config: run: unknown key 'seedz'; did you mean 'seeds'?")


def test_a_key_behind_an_anchor_is_found(faults):
    lines = faults("datasets:\n  mine: &mine\n    kind: count\n    splits: {}\n  more: {<<: *mine}\n")
    assert {line.split(": ")[0] for line in lines if "did you mean 'counts'" in line} == {"my.yaml:3"}


def test_every_reader_is_described_and_every_type_is_known():
    """No parameter of a reader, a model or a split is taken unchecked for want of a type."""
    for name in CODE.modules(READERS):
        for key, value in of_format(CODE, name, FILE)["properties"].items():
            assert key == "format" or (value.get("description") and value.keys() - {"description", "default"}), (
                name,
                key,
            )
    for name in CODE.modules(SPLITS):
        assert all(value for key, value in of_split(CODE, name)["properties"].items() if key != "type")
    for name, entry in default_configuration()["models"].items():
        for key, value in parameters(CODE, entry["class"])["properties"].items():
            assert value.keys() & {"type", "anyOf", "enum"}, (name, key)


def test_the_constructor_is_read_as_python_reads_it():
    """Names and defaults of a model are those that Python finds."""
    import inspect

    from trueshift.models.knn_features import KnnFeatures
    from trueshift.models.ridge_features import RidgeFeatures

    for cls in (KnnFeatures, RidgeFeatures):
        takes = inspect.signature(cls.__init__).parameters
        read = parameters(CODE, f"{cls.__module__}.{cls.__name__}")["properties"]
        assert list(read) == [name for name in takes if name not in ("self", "seed")]
        for name, value in read.items():
            default = takes[name].default
            assert value["default"] == (list(default) if isinstance(default, tuple) else default)


def test_all_keys_are_listed_once_with_stars_for_names():
    from schema import config_schema

    schema = config_schema(CODE)
    known = {".".join(path) for path in keys(schema, schema["$defs"])}
    assert {"run.seeds", "datasets.*.qc.min_genes", "datasets.*.splits.*.alpha", "models.*.gpu"} <= known
