"""What the configuration asks for: which chains run, which are left out and why, and what each job needs to know.

The driver's reading of config. Snakemake hands it the merged mapping; nothing here opens data or imports models.
"""

import difflib
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from snakemake.exceptions import WorkflowError

from code_hash import READERS, REGISTRY, SPLITS, Code

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
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
STARTER = "workflow/run.py"  # every rule's script is started by it
MODEL_RULES = ("train", "predict")  # what they book is first of all their model's affair
KNOWLEDGE = ("features", "structures")  # needs that single perturbations may lack
ADOPTION_KEYS = ("columns", "control", "genes", "layer")
MADE_FEATURES = ("simulated", "morgan", "descriptors")  # the others are files
TRANSFER_KEYS = ("path", "url", "sha256", "md5")  # of a file, what its transfer depends on
IMPORT_KEYS = ("kind", "source", "columns", "filter", "structures", "features", "targets_measured", "preselected_genes")


def with_signature(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps the signature of a function that Snakemake calls for jobs: it asks for it several times each."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


class per_job:  # noqa: N801 - reads as the decorator it is
    """Marks a method that Snakemake calls for jobs. On a plan it is a plain function, made once, whose signature is
    kept: that of a bound method would be worked out anew at every call."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, plan: Any, owner: type) -> Any:
        if plan is None:
            return self

        def function(*args: Any, **named: Any) -> Any:
            return self.method(plan, *args, **named)

        function.__name__, function.__doc__ = self.name, self.method.__doc__
        function.__signature__ = inspect.signature(self.method.__get__(plan))  # type: ignore[attr-defined]
        plan.__dict__[self.name] = function
        return function


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
    """The configuration, read: ``chains`` to run, ``exclusions`` with reasons, and answers for the rules.

    ``submits`` says whether jobs go to a cluster: then they book time and partitions too. ``dry`` says that nothing is
    run, and so nothing written.
    """

    def __init__(self, config: dict[str, Any], code: Code, submits: bool = False, dry: bool = False) -> None:
        self.config, self.source, self.submits, self.dry = config, code, submits, dry
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
        files = [f"{dataset}/fetch" for dataset in self._datasets if self._remote(dataset)]
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
                files.append(f"{fold}/pair_S{self._params(chain.model, chain.variant)['set_size']}")
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

    def listed(self, paths: list[str]) -> Callable[[Wildcards], str]:
        """A function for jobs: the file that lists ``paths``, a line each. A command line has no room for thousands."""
        return self.written("\n".join(paths) + "\n", ".txt")

    def written(self, text: str, ending: str) -> Callable[[Wildcards], str]:
        """A function for jobs: the file that holds ``text``, written when a job is about to run.

        It is named after what it holds, so a job of an earlier configuration finds its own.
        """
        file = Path("results/lists", hashlib.sha256(text.encode()).hexdigest()[:16] + ending)

        def path(wildcards: Wildcards) -> str:
            if not self.dry and not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                temporary = file.with_name(f".{file.name}.{os.getpid()}")
                temporary.write_text(text)
                temporary.replace(file)
            return str(file)

        return with_signature(path)

    def targets(self) -> list[str]:
        """What a run is for: the tables and figures that ``rule all`` asks for."""
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

    def exclusion_rows(self) -> Callable[[Wildcards], str]:
        """A function for jobs: the file that says what was left out and why, as JSON."""
        return self.written(json.dumps(self.exclusions), ".json")

    # --- definitions, by name ---------------------------------------------------------------------

    def dataset(self, name: str) -> dict[str, Any]:
        """The entry of a dataset."""
        if name not in self.config["datasets"]:
            raise unknown("dataset", name, list(self.config["datasets"]), "config/datasets.yaml")
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
            raise unknown("model", name, list(self.config["models"]), "config/models.yaml")
        entry: dict[str, Any] = self.config["models"][name]
        return entry

    def prediction(self, name: str) -> dict[str, Any]:
        """The entry of what others predicted."""
        if name not in self.config["predictions"]:
            raise unknown("prediction", name, list(self.config["predictions"]), "predictions:")
        if name in self.config["models"]:
            raise WorkflowError(f"predictions: {name} is the name of a model; choose another")
        entry: dict[str, Any] = self.config["predictions"][name]
        return entry

    def variants(self, model: str) -> list[str]:
        """``default`` (the model's params) and its named variants."""
        return ["default", *self.model(model).get("variants", {})]

    def _params(self, model: str, variant: str) -> dict[str, Any]:
        """The model's params, overlaid by those of the variant and of the variants that it is based on."""
        entry = self.model(model)
        variants = {"default": {}, **entry.get("variants", {})}
        line: list[str] = []
        while variant not in line:
            if variant not in variants:
                raise unknown("variant", variant, self.variants(model), f"model {model}")
            line.append(variant)
            variant = variants[variant].get("base", "default")
        if variant != "default":
            raise WorkflowError(f"model {model}: the variants {', '.join(line)} are based on one another in a circle")
        changes = {key: value for name in reversed(line) for key, value in variants[name].items() if key != "base"}
        return {**entry["params"], **changes}

    def _splits_of(self, dataset: str) -> list[str]:
        known = list(self.dataset(dataset)["splits"])
        if self.run["splits"] == ["all"]:
            return known
        everywhere = [name for other in self.run["datasets"] for name in self.dataset(other)["splits"]]
        for name in self.run["splits"]:
            if name not in everywhere:
                raise unknown("split", name, everywhere, "the chosen datasets")
        return [name for name in known if name in self.run["splits"]]

    def _models(self) -> list[tuple[str, str]]:
        """The (model, variant) pairs chosen, the floors always among them."""
        chosen = []
        for item in [*FLOORS, *self.run["models"]]:
            model, _, variant = item.partition("/")
            self._params(model, variant or "default")
            chosen.append((model, variant or "default"))
        return list(dict.fromkeys(chosen))

    # --- what fits what ---------------------------------------------------------------------------

    def features(self, dataset: str, model: str, variant: str) -> str | None:
        """The perturbation features a model gets on a dataset: those it names, else the first the dataset has."""
        entry = self.dataset(dataset)
        has = [*entry.get("features", {}), *(["target_expression"] if entry.get("targets_measured") else [])]
        wanted = self._params(model, variant).get("features")
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
            wanted = self._params(model, variant).get("features")
            return f"{model} needs perturbation features{f' {wanted}' if wanted else ''}; {dataset} has none"
        if "structures" in entry["needs"] and not self.has_structures(dataset):
            return f"{model} needs structures (SMILES); {dataset} has none"
        return None

    def check(self, wildcards: Wildcards) -> None:
        """Refuses a target that names what is not defined, or what does not fit, before anything runs."""
        self.check_fold(wildcards)
        self._params(wildcards.model, wildcards.variant)
        reason = self.unfit(wildcards.dataset, wildcards.split, wildcards.model, wildcards.variant)
        if reason:
            raise WorkflowError(f"left out of {wildcards.dataset}/{wildcards.split}: {reason}")

    def check_fold(self, wildcards: Wildcards) -> None:
        """Refuses a fold that its split does not have."""
        known = self.folds(wildcards.dataset, wildcards.split)
        if wildcards.fold not in known:
            raise unknown("fold", wildcards.fold, known, f"split {wildcards.split} of {wildcards.dataset}")

    # --- what a job is told -----------------------------------------------------------------------

    def stage(self, stage: str) -> Callable[[Wildcards], str]:
        """A function of the wildcards: the part of a dataset's entry that one stage reads, as JSON.

        What only other stages read is not in it, so editing that reruns nothing here.
        """

        @with_signature
        def part(wildcards: Wildcards) -> str:
            entry = self.dataset(wildcards.dataset)
            if stage == "import":
                return json.dumps({key: entry[key] for key in IMPORT_KEYS if key in entry}, sort_keys=True)
            if stage == "split":
                return json.dumps(self._placed(self.split(wildcards.dataset, wildcards.split)), sort_keys=True)
            settings = dict(entry.get(stage, {}))
            if stage == "partition":  # says which unit the split holds out
                settings["split"] = self.split(wildcards.dataset, wildcards.split)
            return json.dumps(settings, sort_keys=True)

        return part

    def located(self, file: Any) -> Path:
        """Where a file of a dataset's entry is, be it given as a path or as a mapping with one."""
        path = file["path"] if isinstance(file, dict) and "path" in file else str(file)
        return Path(path.replace("{data}", self.config["data_folder"]))

    def _placed(self, entry: dict[str, Any]) -> dict[str, Any]:
        """A split's entry with its paths as they are on this machine."""
        key = self.split_type(entry["type"]).get("FILES")
        return {**entry, key: {name: str(self.located(file)) for name, file in entry[key].items()}} if key else entry

    @per_job
    def split_files(self, wildcards: Wildcards) -> list[str]:
        """The local files a split reads, as far as they are there: a change of theirs reruns it. Checks the fold."""
        self.check_fold(wildcards)
        entry = self._placed(self.split(wildcards.dataset, wildcards.split))
        key = self.split_type(entry["type"]).get("FILES", "")
        files = entry.get(key, {})
        chosen = [files[wildcards.fold]] if key == "folds" and wildcards.fold in files else files.values()
        return [path for path in chosen if Path(path).is_file()]

    @per_job
    def source_files(self, wildcards: Wildcards) -> list[str]:
        """The local files an import reads, as far as they are there: a change of theirs reruns it.

        Of a folder they are the files in it. A file with an address is the affair of :meth:`fetched`.
        """
        files = self._files(wildcards.dataset)
        paths = [self.located(file) for file in files if not has_url(file)]
        inside = [file for path in paths if path.is_dir() for file in sorted(path.glob("[!.]*"))]
        return [str(path) for path in [*paths, *inside] if path.is_file()]

    def _files(self, dataset: str) -> list[Any]:
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

    @per_job
    def fetched(self, wildcards: Wildcards) -> list[str]:
        """What says that the files with an address are there; nothing for a dataset without such files.

        These files are no inputs: a plan would see them only once they are there, and run the import again.
        """
        return [f"results/{wildcards.dataset}/fetched.json"] if self._remote(wildcards.dataset) else []

    @per_job
    def remote_files(self, wildcards: Wildcards) -> str:
        """The files of a dataset that have an address, as JSON: where they are put, address and checksum."""
        remote = self._remote(wildcards.dataset)
        if not remote:
            raise WorkflowError(f"dataset {wildcards.dataset} has no file with a url: there is nothing to fetch")
        return json.dumps([{key: file[key] for key in TRANSFER_KEYS if key in file} for file in remote])

    def _remote(self, dataset: str) -> list[dict[str, Any]]:
        return [file for file in self._files(dataset) if has_url(file)]

    @per_job
    def settings(self, wildcards: Wildcards) -> str:
        """Class and parameters of a model, and what it needs to know of perturbations, as JSON."""
        entry, params = self.model(wildcards.model), self._params(wildcards.model, wildcards.variant)
        if "features" in entry["needs"]:
            params["features"] = self.features(wildcards.dataset, wildcards.model, wildcards.variant)
        settings: dict[str, Any] = {"class": entry["class"], "params": params}
        if needs := [name for name in entry["needs"] if name in KNOWLEDGE]:
            settings["needs"] = needs
        return json.dumps(settings, sort_keys=True)

    @per_job
    def train_inputs(self, wildcards: Wildcards) -> dict[str, str | list[str]]:
        """train.h5ad and, for a model that needs them, the pairs of its set size. Refuses what cannot run."""
        self.check(wildcards)
        fold = f"results/{wildcards.dataset}/{wildcards.split}/{wildcards.fold}"
        pairs = []
        if "pairs" in self.model(wildcards.model)["needs"]:
            pairs = [f"{fold}/pairs_S{self._params(wildcards.model, wildcards.variant)['set_size']}.npz"]
        return {"train": f"{fold}/train.h5ad", "pairs": pairs}

    @per_job
    def floor_scores(self, wildcards: Wildcards) -> list[str]:
        """The scores of both floors on all folds of a split."""
        split, seed = f"results/{wildcards.dataset}/{wildcards.split}", self.run["seeds"][0]
        folds = self.folds(wildcards.dataset, wildcards.split)
        return [f"{split}/{fold}/{floor}/default/seed{seed}/scores.parquet" for fold in folds for floor in FLOORS]

    @per_job
    def ceilings(self, wildcards: Wildcards) -> list[str]:
        """The technical duplicate on all folds of a split."""
        split = f"results/{wildcards.dataset}/{wildcards.split}"
        return [f"{split}/{fold}/ceiling.parquet" for fold in self.folds(wildcards.dataset, wildcards.split)]

    @per_job
    def adopted_file(self, wildcards: Wildcards) -> str:
        """The file that others predicted. Refuses a dataset or split that it is not for."""
        entry = self.prediction(wildcards.model)
        for key, value in (("dataset", wildcards.dataset), ("split", wildcards.split)):
            if entry[key] != value:
                raise WorkflowError(f"prediction {wildcards.model} is for {key} {entry[key]}, not {value}")
        return str(entry["path"])

    @per_job
    def adoption(self, wildcards: Wildcards) -> str:
        """How such a file is read, as JSON."""
        entry = self.prediction(wildcards.model)
        return json.dumps({key: entry[key] for key in ADOPTION_KEYS if key in entry}, sort_keys=True)

    @property
    def tracking(self) -> str:
        """Where trainings report, as JSON."""
        return json.dumps(self.config["tracking"], sort_keys=True)

    @property
    def evaluation(self) -> str:
        """The evaluation settings, as JSON."""
        return json.dumps(self.config["evaluation"], sort_keys=True)

    @property
    def halving(self) -> str:
        """Those of them that say how test cells are halved, as JSON."""
        return json.dumps({key: self.config["evaluation"][key] for key in ("duplicate_halvings", "seed")})

    @per_job
    def environment(self, wildcards: Wildcards) -> str:
        """The env file of a model, as seen from ``rules/``."""
        return f"../envs/{self.model(wildcards.model)['env']}.yaml"

    @property
    def threads(self) -> int | Callable[[Wildcards], int]:
        """How many threads a model computes on: one number where all models agree, else a function of the wildcards."""

        @with_signature
        def of_model(wildcards: Wildcards) -> int:
            return int(self.model(wildcards.model)["threads"])

        agreed = {entry["threads"] for entry in self.config["models"].values()}
        return agreed.pop() if len(agreed) == 1 else of_model

    @property
    def thread_variables(self) -> str | Callable[[Wildcards], str]:
        """The same as variables of a command's environment; Snakemake's own follow the cores that are left to a job."""

        @with_signature
        def of_model(wildcards: Wildcards) -> str:
            return " ".join(f"{name}={self.model(wildcards.model).get('threads', 1)}" for name in THREADS)

        threads = self.threads
        return of_model if callable(threads) else " ".join(f"{name}={threads}" for name in THREADS)

    def resources(self, rule: str) -> dict[str, Any]:
        """What a job of a rule books: memory, time and partition from ``resources:``, what its model says first.

        Where jobs are submitted, one that failed is submitted again with as many times the memory and the time as it
        has attempts. Snakemake calls every function anew for every job, so only what depends on the job is one.
        """
        table = self.config["resources"]
        entry = {**table["every"], **table.get(rule, {})}
        of_models = rule in MODEL_RULES

        def wanted(name: str, wildcards: Wildcards) -> Any:
            return self.model(wildcards.model).get(name, entry.get(name)) if of_models else entry[name]

        @with_signature
        def mem_mb(wildcards: Wildcards, attempt: int) -> int:
            return int(wanted("mem_mb", wildcards)) * attempt

        @with_signature
        def runtime(wildcards: Wildcards, attempt: int) -> int:
            return int(wanted("runtime", wildcards)) * attempt

        @with_signature
        def gpu(wildcards: Wildcards) -> int:
            return int(wanted("gpu", wildcards) or 0)

        @with_signature
        def slurm_partition(wildcards: Wildcards) -> str | None:
            on_gpu = entry.get("gpu_partition") if gpu(wildcards) else None
            return on_gpu or entry.get("partition")

        booked: dict[str, Any] = {"mem_mb": mem_mb if of_models or self.submits else entry["mem_mb"]}
        if of_models:
            booked["gpu"] = gpu
        if self.submits:
            booked["runtime"] = runtime
            if entry.get("partition") or entry.get("gpu_partition"):  # else the cluster's default
                booked["slurm_partition"] = slurm_partition if of_models else entry.get("partition")
        return {name: value for name, value in booked.items() if value is not None}

    def code(self, *files: str) -> str:
        """A hash of the code that files of this repository run: their own and what they import of the library.

        What starts them counts too, and where they read the registry of metrics, the modules of the metrics that the
        configuration names.
        """
        if REGISTRY in self.source.closure(*files):
            defined = self.source.metrics()
            files = (*files, *sorted({defined[name] for name in self.config["evaluation"]["metrics"]}))
        return self.source.hash(STARTER, *files)

    def import_code(self, *files: str) -> Callable[[Wildcards], str]:
        """A function of the wildcards: :meth:`code` of files together with the reader of the dataset's source."""

        def code(wildcards: Wildcards) -> str:
            return self.code(*files, self.reader(wildcards.dataset))

        return with_signature(code)

    def split_code(self, *files: str) -> Callable[[Wildcards], str]:
        """A function of the wildcards: :meth:`code` of files together with the module of the split's type."""

        def code(wildcards: Wildcards) -> str:
            return self.code(*files, f"{SPLITS}/{self.split(wildcards.dataset, wildcards.split)['type']}.py")

        return with_signature(code)

    def model_code(self, stage: str) -> Callable[[Wildcards], str]:
        """A function of the wildcards: :meth:`code` of a stage's script together with the model's file."""

        def code(wildcards: Wildcards) -> str:
            module = self.model(wildcards.model)["class"].rpartition(".")[0]
            return self.code(f"workflow/scripts/{stage}.py", f"src/{module.replace('.', '/')}.py")

        return with_signature(code)
