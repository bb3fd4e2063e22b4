"""What the configuration asks for: what runs, what is left out and why, and where results are.

Snakemake hands over the merged mapping; nothing here opens data or imports models. What single jobs are told:
:mod:`jobs`.
"""

import difflib
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from snakemake.exceptions import WorkflowError

from code_hash import READERS, SPLITS, Code

QUESTIONS = {
    "seen": "cells of conditions it was trained on",
    "partial_context": "perturbations it saw only in other contexts",
    "new_context": "contexts without any perturbed training cell",
    "new_perturbation": "perturbations it never saw",
    "new_combination": "combinations it never saw",
    "new_dose": "doses it never saw of perturbations it did",
}
RESERVED = ("tables", "figures", "logs", "benchmarks", "lists", "runs")  # folders of results that are no dataset's
FLOORS = ("no_change", "mean_shift")  # every table needs them
FIELD_METRICS = ("legacy_r2_topk", "legacy_pearson", "r2_topk", "pearson_delta")  # of topk_r2_results.csv
FIELD_K = ("20", "40", "80")
EXTERNAL = "external"  # the variant of what others predicted
MODEL_RULES = ("train", "predict")  # what they book is first of all their model's affair
MADE_FEATURES = ("simulated", "morgan", "descriptors")  # the others are files


class Chain(NamedTuple):
    """One model on one fold: the path below ``results/`` of everything made for it."""

    dataset: str
    split: str
    fold: str
    model: str
    variant: str
    seed: int

    @property
    def path(self) -> str:
        """``{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}``."""
        return f"{self.dataset}/{self.split}/{self.fold}/{self.model}/{self.variant}/seed{self.seed}"


class Wildcards(Protocol):
    """The wildcards of a rule, as far as it has them."""

    dataset: str
    split: str
    fold: str
    model: str
    variant: str
    seed: str


def did_you_mean(name: str, known: Collection[str], cutoff: float = 0.6) -> str:
    """The part of an error message that names the nearest of some names, if one is near."""
    near = difflib.get_close_matches(name, known, 1, cutoff)
    return f"; did you mean '{near[0]}'?" if near else ""


def unknown(what: str, name: str, known: list[str], where: str) -> WorkflowError:
    """The error for a name that is not defined: the nearest one, and all there are."""
    return WorkflowError(
        f"unknown {what} '{name}'{did_you_mean(name, known)} ({where} has: {', '.join(known) or 'none'})"
    )


def has_url(file: Any) -> bool:
    """Whether a file of an entry has an address."""
    return isinstance(file, dict) and bool(file.get("url"))


class Plan:
    """The configuration, checked (:mod:`checks`) and read: ``chains`` to run, ``exclusions``, definitions, paths."""

    def __init__(self, config: dict[str, Any], code: Code) -> None:
        self.config, self.source = config, code
        self.run = config["run"]
        self.chains: list[Chain] = []
        self.exclusions: list[dict[str, str]] = []
        for dataset in self.run["datasets"]:
            for split in self._splits_of(dataset):
                for model, variant in self._models():
                    reason = self.unfit(dataset, split, model, variant)
                    if reason:
                        row = {"dataset": dataset, "split": split, "model": model, "variant": variant}
                        self.exclusions.append({**row, "reason": reason})
                        continue
                    seeds = self.run["seeds"][:1] if self.model(model)["deterministic"] else self.run["seeds"]
                    for fold in self.folds(dataset, split):
                        self.chains += [Chain(dataset, split, fold, model, variant, seed) for seed in seeds]
        for name in self.run["predictions"]:
            dataset, split = (self.prediction(name)[key] for key in ("dataset", "split"))
            chosen = [chain for chain in self.chains if chain[:2] == (dataset, split)]
            if not chosen:
                raise WorkflowError(f"prediction {name} is for {dataset}/{split}, which run: does not choose")
            folds = dict.fromkeys(chain.fold for chain in chosen)
            self.chains += [Chain(dataset, split, fold, name, EXTERNAL, 0) for fold in folds]
        self.fold_paths = list(dict.fromkeys("/".join(chain[:3]) for chain in self.chains))

    # --- where the tables are -----------------------------------------------------------------------

    @property
    def folder(self) -> str:
        """Where tables and figures are: ``results``, or the folder of the run if it has a name."""
        return f"results/runs/{self.run['name']}" if self.run.get("name") else "results"

    def table(self, name: str) -> str:
        """The path of a table."""
        return f"{self.folder}/tables/{name}"

    def figure(self, name: str) -> str:
        """The path of a figure of the tables."""
        return f"{self.folder}/figures/{name}"

    def log(self, rule: str) -> str:
        """The log of a rule that makes tables or figures."""
        return f"{self.folder}/logs/{rule}.log"

    def benchmark(self, rule: str) -> str:
        """What a rule that makes tables or figures took."""
        return f"{self.folder}/benchmarks/{rule}.tsv"

    # --- what the tables gather -------------------------------------------------------------------

    def all_scores(self) -> list[str]:
        """The scores file of every chain."""
        return [f"results/{chain.path}/scores.parquet" for chain in self.chains]

    def all_costs(self) -> list[str]:
        """The cost files of every chain that is computed here: training, then prediction."""
        ours = [chain for chain in self.chains if chain.variant != EXTERNAL]
        return [f"results/{chain.path}/{stage}_cost.json" for chain in ours for stage in MODEL_RULES]

    def all_benchmarks(self) -> list[str]:
        """What every job took that comes before the scores."""
        files = [f"{dataset}/fetch" for dataset in self._datasets if self.remote(dataset)]
        files += [f"{path}/{rule}" for path in self._datasets for rule in ("import_data", "qc", "normalize")]
        rules = ("split", "select_genes", "partition", "reference")
        files += [f"{path}/{rule}" for path in self.fold_paths for rule in rules]
        for chain in self.chains:
            fold = "/".join(chain[:3])
            if chain.variant == EXTERNAL:
                files.append(f"{chain.path}/adopt")
                continue
            files += [f"{chain.path}/{rule}" for rule in MODEL_RULES]
            if "pairs" in self.model(chain.model)["needs"]:
                files.append(f"{fold}/pair_S{self.params(chain.model, chain.variant)['set_size']}")
        return [f"results/benchmarks/{file}.tsv" for file in dict.fromkeys(files)]

    def score_benchmarks(self) -> list[str]:
        """What every job took that computes or reads metrics, and the tables; cost.csv is not made again for them."""
        files = [f"{path}/ceiling" for path in self.fold_paths] + [f"{chain.path}/score" for chain in self.chains]
        files += [f"{path}/calibrate" for path in self._split_paths]
        tables = ["topk_r2", "leaderboard", "calibration", "conditions", "leaks", "features", "exclusions"]
        return [f"results/benchmarks/{file}.tsv" for file in files] + [self.benchmark(table) for table in tables]

    def all_of_folds(self, name: str) -> list[str]:
        """One artefact of every fold."""
        return [f"results/{path}/{name}" for path in self.fold_paths]

    def all_of_datasets(self, name: str) -> list[str]:
        """One artefact of every dataset."""
        return [f"results/{dataset}/{name}" for dataset in self._datasets]

    def all_of_splits(self, name: str) -> list[str]:
        """One artefact of every split of every dataset."""
        return [f"results/{path}/{name}" for path in self._split_paths]

    @property
    def _datasets(self) -> list[str]:
        return list(dict.fromkeys(chain.dataset for chain in self.chains))

    @property
    def _split_paths(self) -> list[str]:
        return list(dict.fromkeys("/".join(chain[:2]) for chain in self.chains))

    def targets(self, wildcards: Wildcards) -> list[str]:
        """What a run is for: the tables and figures that ``rule all`` asks for. Refuses a run without any model."""
        if not self.chains:
            raise WorkflowError(
                "no model is left to run; see above why each is left out, and choose others by run.models"
            )
        tables = ["topk_r2", "leaderboard", "calibration", "conditions", "leaks", "features", "exclusions", "cost"]
        figures = ["topk_r2", "leaderboard", "agreement", "conditions", "cost"]
        wanted = [self.table(f"{name}.csv") for name in tables] + [self.figure(f"{name}.png") for name in figures]
        return wanted + self.field_table()

    def field_table(self) -> list[str]:
        """The field's table and its figure, if the configuration asks for all that they are made of."""
        scored, ks = (set(map(str, self.config["evaluation"][key])) for key in ("metrics", "k"))
        if not scored.issuperset(FIELD_METRICS) or not ks.issuperset(FIELD_K):
            return []
        return [self.table("topk_r2_results.csv"), self.figure("two_orders.png")]

    @property
    def baselines(self) -> list[str]:
        """The chosen models that figures draw as baselines: those of the environment of that name."""
        ours = {chain.model for chain in self.chains if chain.variant != EXTERNAL}
        return sorted(model for model in ours if self.model(model)["env"] == "baselines")

    # --- definitions, by name ---------------------------------------------------------------------

    def dataset(self, name: str) -> dict[str, Any]:
        """The entry of a dataset."""
        if name not in self.config["datasets"]:
            raise unknown("dataset", name, list(self.config["datasets"]), "datasets")
        entry: dict[str, Any] = self.config["datasets"][name]
        return entry

    def split(self, dataset: str, name: str) -> dict[str, Any]:
        """The entry of a split of a dataset."""
        splits: dict[str, Any] = self.dataset(dataset)["splits"]
        if name not in splits:
            raise unknown("split", name, list(splits), f"dataset {dataset}")
        entry: dict[str, Any] = splits[name]
        return entry

    def folds(self, dataset: str, split: str) -> list[str]:
        """The folds of a split: named in its entry, or 1 … k."""
        entry = self.split(dataset, split)
        default = self.split_type(entry["type"])["SETTINGS"].get("k")
        return [str(name) for name in entry.get("folds") or range(1, entry.get("k", default) + 1)]

    def split_type(self, name: str) -> dict[str, Any]:
        """What the module of a type of split declares."""
        return self.source.constants(f"{SPLITS}/{name}.py")

    def reader(self, dataset: str) -> str:
        """The file that reads a dataset's source."""
        return f"{READERS}/{self.dataset(dataset)['source']['format']}.py"

    def model(self, name: str) -> dict[str, Any]:
        """The entry of a model."""
        if name not in self.config["models"]:
            raise unknown("model", name, list(self.config["models"]), "models")
        entry: dict[str, Any] = self.config["models"][name]
        return entry

    def prediction(self, name: str) -> dict[str, Any]:
        """The entry of what others predicted."""
        if name not in self.config["predictions"]:
            raise unknown("prediction", name, list(self.config["predictions"]), "predictions:")
        entry: dict[str, Any] = self.config["predictions"][name]
        return entry

    def variants(self, model: str) -> list[str]:
        """``default`` (the model's params) and its named variants."""
        return ["default", *self.model(model).get("variants", {})]

    def params(self, model: str, variant: str) -> dict[str, Any]:
        """The model's params, overlaid by those of the variant and of the variants that it is based on."""
        entry = self.model(model)
        variants = {"default": {}, **entry.get("variants", {})}
        line: list[str] = []
        while variant not in line:
            if variant not in variants:
                raise unknown("variant", variant, self.variants(model), f"model {model}")
            line.append(variant)
            variant = variants[variant].get("base", "default")
        changes = {key: value for name in reversed(line) for key, value in variants[name].items() if key != "base"}
        return {**entry["params"], **changes}

    def _splits_of(self, dataset: str) -> list[str]:
        known, chosen = list(self.dataset(dataset)["splits"]), self.run["splits"]
        return known if chosen == ["all"] else [name for name in known if name in chosen]

    def _models(self) -> list[tuple[str, str]]:
        """The (model, variant) pairs chosen, the floors always among them."""
        chosen = []
        for item in [*FLOORS, *self.run["models"]]:
            model, _, variant = item.partition("/")
            self.params(model, variant or "default")
            chosen.append((model, variant or "default"))
        return list(dict.fromkeys(chosen))

    # --- the files of a dataset ------------------------------------------------------------------------

    def located(self, file: Any) -> Path:
        """Where a file of a dataset's entry is, be it given as a path or as a mapping with one."""
        path = file["path"] if isinstance(file, dict) and "path" in file else str(file)
        return Path(path.replace("{data}", self.config["data_folder"])).expanduser()

    def files(self, dataset: str) -> list[Any]:
        """Every file that the import of a dataset reads, as its entry has it: a path, or a mapping with one."""
        entry = self.dataset(dataset)
        settings, keys = entry["source"], self.source.constants(self.reader(dataset))["FILES"]
        files: list[Any] = []
        for key in (key for key in keys if key in settings):
            value = settings[key]
            by_name = isinstance(value, dict) and "path" not in value
            # what belongs to path, its address and checksum, stands beside it
            files += value.values() if by_name else [settings if key == "path" else value]
        files += [file for file in entry.get("features", {}).values() if file not in MADE_FEATURES]
        return [*files, entry["structures"]] if "structures" in entry else files

    def remote(self, dataset: str) -> list[dict[str, Any]]:
        """Those of them that have an address."""
        return [file for file in self.files(dataset) if has_url(file)]

    # --- what fits what ---------------------------------------------------------------------------

    def features(self, dataset: str, model: str, variant: str) -> str | None:
        """The perturbation features a model gets on a dataset: those it names, else the first the dataset has."""
        entry = self.dataset(dataset)
        has = [*entry.get("features", {}), *(["target_expression"] if entry.get("targets_measured") else [])]
        wanted = self.params(model, variant).get("features")
        if wanted:
            return wanted if wanted in has else None
        return has[0] if has else None

    def has_structures(self, dataset: str) -> bool:
        """Whether a dataset says where the SMILES of its drugs are."""
        entry = self.dataset(dataset)
        columns = {**self.source.constants(self.reader(dataset)).get("COLUMNS", {}), **entry.get("columns", {})}
        return "smiles" in columns or "structures" in entry

    def unfit(self, dataset: str, split: str, model: str, variant: str) -> str | None:
        """Why a model cannot do a split of a dataset; None if it can."""
        entry, kind = self.model(model), self.dataset(dataset)["kind"]
        if kind not in entry["kinds"]:
            return f"{model} does not read data of kind {kind}"
        definition = self.split(dataset, split)
        question = self.split_type(definition["type"])["ASKS"] or definition.get("asks", "seen")
        if question not in entry["can"]:
            return f"{model} cannot predict {QUESTIONS[question]}"
        if "features" in entry["needs"] and not self.features(dataset, model, variant):
            wanted = self.params(model, variant).get("features")
            return f"{model} needs perturbation features{f' {wanted}' if wanted else ''}; {dataset} has none"
        if "structures" in entry["needs"] and not self.has_structures(dataset):
            return f"{model} needs structures (SMILES); {dataset} has none"
        return None

    def check(self, wildcards: Wildcards) -> None:
        """Refuses a target that names what is not defined, or what does not fit, before anything runs."""
        self.check_fold(wildcards)
        self.params(wildcards.model, wildcards.variant)
        reason = self.unfit(wildcards.dataset, wildcards.split, wildcards.model, wildcards.variant)
        if reason:
            raise WorkflowError(f"left out of {wildcards.dataset}/{wildcards.split}: {reason}")

    def check_fold(self, wildcards: Wildcards) -> None:
        """Refuses a fold that its split does not have."""
        known = self.folds(wildcards.dataset, wildcards.split)
        if wildcards.fold not in known:
            raise unknown("fold", wildcards.fold, known, f"split {wildcards.split} of {wildcards.dataset}")
