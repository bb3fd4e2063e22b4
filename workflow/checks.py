"""What is checked before anything runs: the configuration against its definition."""

import re
from collections.abc import Mapping
from typing import Any

from snakemake.exceptions import WorkflowError

from code_hash import READERS, SPLITS, Code
from faults import TOP, Faults
from origins import Key, Origins
from plan import MADE_FEATURES, RESERVED
from schema import fill_defaults, parameters

MODELS = "src/trueshift/models"
BASE = "Model"  # the class that all models derive from


def check_config(config: dict[str, Any], code: Code, origins: Origins) -> None:
    """Raises a WorkflowError that lists every fault of the merged configuration; fills in its defaults."""
    faults = Faults(config, code, origins)
    for place, key in origins.repeated():
        faults.add(key, f"stands a second time in {place}; the first would be dropped without a word")
    faults.of(config, faults.schema)
    # What comes next relies on the shape of the parts that it reads.
    shapeless = {*faults.parts}
    for check, parts in ((_datasets, {"datasets"}), (_models, {"models"}), (_names, set(config))):
        if shapeless.isdisjoint({*parts, TOP}):
            check(faults)
    if faults.lines:
        lines = "\n".join(f"  {line}" for line in sorted(set(faults.lines)))
        raise WorkflowError(f"the configuration has faults:\n{lines}")
    fill_defaults(config, faults.schema)


def _datasets(faults: Faults) -> None:
    """What readers, types of splits and columns say of the datasets."""
    config, code = faults.config, faults.code
    readers, types = code.modules(READERS), code.modules(SPLITS)
    for name, entry in config["datasets"].items():
        place = ("datasets", name)
        if name in RESERVED:
            faults.add(place, f"results/{name} is a folder of all datasets; choose another name")
        columns = {**code.constants(readers[entry["source"]["format"]]).get("COLUMNS", {}), **entry.get("columns", {})}
        if "perturbation" not in columns or "context" not in columns:
            faults.add(place, "columns: perturbation and context are needed")
        else:
            _columns(columns, (*place, "columns"), faults)
        for label, file in entry.get("features", {}).items():
            if isinstance(file, str) and file not in MADE_FEATURES and not re.search(r"[./{]", file):
                faults.unknown(
                    (*place, "features", label, file), MADE_FEATURES, "no features", "besides files there are"
                )
        for split, definition in entry["splits"].items():
            here, module = (*place, "splits", split), code.constants(types[definition["type"]])
            if "k" not in module["SETTINGS"] and not definition.get("folds"):
                faults.add(here, f"type {definition['type']} needs folds: names, and what each holds out")
            if "k" in definition and "folds" in definition:
                other = faults.origins((*here, "folds"))
                faults.add((*here, "k"), f"both k and folds ({other}) are given; give one")
            if "structures" in module.get("NEEDS", []) and "smiles" not in columns and "structures" not in entry:
                faults.add(here, f"type {definition['type']} needs structures: columns: smiles, or structures: a table")
    _paths(config["datasets"], ("datasets",), faults)


def _columns(columns: Mapping[str, Any], place: tuple[Key, ...], faults: Faults) -> None:
    """What is wrong with columns whatever the data hold."""
    if not isinstance(columns["perturbation"], Mapping) or "control" not in columns["perturbation"]:
        faults.add(
            (*place, "perturbation"),
            "its controls are needed: {from: COLUMN, control: LABEL}; null: cells without a label",
        )
    for name, spec in columns.items():
        if not isinstance(spec, Mapping):
            continue
        if "from" in spec and "value" in spec:
            faults.add((*place, name), "both from and value are given; give one")
        if "extract" in spec:
            try:
                groups = re.compile(spec["extract"]).groups
            except re.error as error:
                faults.add((*place, name, "extract"), f"'{spec['extract']}' is no regular expression: {error}")
            else:
                if not groups:
                    faults.add((*place, name, "extract"), f"'{spec['extract']}' has no group: put (…) around the value")


def _paths(value: Any, place: tuple[Key, ...], faults: Faults) -> None:
    """Names in braces that stand for nothing."""
    if isinstance(value, str):
        for name in re.findall(r"^\{(\w+)\}/", value):
            if name != "data":
                faults.add(place, f"'{value}': {{{name}}} stands for nothing; {{data}} is the data folder")
    for key, part in value.items() if isinstance(value, Mapping) else ():
        _paths(part, (*place, key), faults)


def _models(faults: Faults) -> None:
    """What the classes of models say of their parameters, and which environments there are."""
    config, code = faults.config, faults.code
    environments = [file.stem for file in sorted((code.root / "envs").glob("*.yaml"))]
    for name, entry in config["models"].items():
        place = ("models", name)
        if entry["env"] not in environments:
            faults.unknown((*place, "env", entry["env"]), environments, "unknown environment", "envs/ has")
        module, _, cls = entry["class"].rpartition(".")
        schema = parameters(code, entry["class"])
        if schema is None or not code.derives(f"src/{module.replace('.', '/')}.py", cls, BASE):
            faults.unknown((*place, "class", entry["class"]), _classes(code), "no model", "there are")
            continue
        faults.of(entry.get("params", {}), schema, (*place, "params"))
        for variant, changes in entry.get("variants", {}).items():
            own = {key: value for key, value in changes.items() if key != "base"}
            faults.of(own, schema, (*place, "variants", variant))
        _bases(entry.get("variants", {}), place, faults)


def _classes(code: Code) -> list[str]:
    dotted = MODELS.removeprefix("src/").replace("/", ".")
    return [
        f"{dotted}.{module}.{name}"
        for module, file in code.modules(MODELS).items()
        for name in code.classes(file)
        if code.derives(file, name, BASE) and module != "base"
    ]


def _bases(variants: Mapping[str, Any], place: tuple[Key, ...], faults: Faults) -> None:
    for variant in variants:
        line = [variant]
        while (base := variants[line[-1]].get("base", "default")) != "default":
            here = (*place, "variants", line[-1], "base")
            if base not in variants:
                faults.unknown((*here, base), list(variants), "unknown variant", "the model has")
                break
            if base in line:
                faults.add(here, f"the variants {', '.join(line)} are based on one another in a circle")
                break
            line.append(base)


def _names(faults: Faults) -> None:
    """Whether what ``run`` chooses by name is defined."""
    config, run = faults.config, faults.config["run"]
    for part in ("datasets", "predictions"):
        for i, name in enumerate(run.get(part, [])):
            if name not in config[part]:
                faults.unknown(("run", part, i, name), list(config[part]), f"unknown {part[:-1]}", f"{part} has")
    for i, item in enumerate(run["models"]):
        model, _, variant = item.partition("/")
        if model not in config["models"]:
            faults.unknown(("run", "models", i, model), list(config["models"]), "unknown model", "models has")
        elif variant not in (known := ["default", *config["models"][model].get("variants", {})]) and variant:
            faults.unknown(("run", "models", i, variant), known, "unknown variant", f"{model} has")
    for name, entry in config["predictions"].items():
        place = ("predictions", name)
        if name in config["models"]:
            faults.add(place, "this is the name of a model; choose another")
        if (dataset := entry["dataset"]) not in config["datasets"]:
            faults.unknown((*place, "dataset", dataset), list(config["datasets"]), "unknown dataset", "datasets has")
        elif entry["split"] not in (known := list(config["datasets"][dataset]["splits"])):
            faults.unknown((*place, "split", entry["split"]), known, "unknown split", f"{dataset} has")
    chosen = [config["datasets"][name]["splits"] for name in run["datasets"] if name in config["datasets"]]
    splits = list(dict.fromkeys(split for entry in chosen for split in entry))
    for i, name in enumerate(run["splits"]):
        if run["splits"] != ["all"] and name not in splits:
            faults.unknown(("run", "splits", i, name), splits, "unknown split", "the chosen datasets have")
