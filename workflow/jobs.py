"""What each job is told: inputs, settings, code, environment and what it books, asked by the rules.

Snakemake asks a function of the wildcards several times for each job, and each time for its signature.
"""

import hashlib
import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakemake.exceptions import WorkflowError

from code_hash import REGISTRY, SPLITS
from plan import FLOORS, MODEL_RULES, Plan, Wildcards, has_url

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
STARTER = "workflow/run.py"  # every rule's script is started by it
KNOWLEDGE = ("features", "structures")  # needs that single perturbations may lack
ADOPTION_KEYS = ("columns", "control", "genes", "layer")
TRANSFER_KEYS = ("path", "url", "sha256", "md5")  # of a file, what its transfer depends on
IMPORT_KEYS = ("kind", "source", "columns", "filter", "structures", "features", "targets_measured", "preselected_genes")
# The methods that rules hand to Snakemake by their names.
FOR_RULES = (
    "split_files",
    "source_files",
    "fetched",
    "remote_files",
    "settings",
    "train_inputs",
    "floor_scores",
    "ceilings",
    "adopted_file",
    "adoption",
    "environment",
)


def with_signature(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function that does the same and keeps its signature: that of a method is worked out at every call."""

    def answer(*args: Any, **named: Any) -> Any:
        return function(*args, **named)

    answer.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return answer


class Jobs:
    """Answers for the rules, by the wildcards of a job.

    ``submits`` says whether jobs go to a cluster: then they book time and partitions too. ``dry`` says that nothing is
    run, and so nothing written.
    """

    def __init__(self, plan: Plan, submits: bool = False, dry: bool = False) -> None:
        self.plan, self.submits, self.dry = plan, submits, dry
        for name in FOR_RULES:
            setattr(self, name, with_signature(getattr(self, name)))

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

    def exclusion_rows(self) -> Callable[[Wildcards], str]:
        """A function for jobs: the file that says what was left out and why, as JSON."""
        return self.written(json.dumps(self.plan.exclusions), ".json")

    def stage(self, stage: str) -> Callable[[Wildcards], str]:
        """A function of the wildcards: the part of a dataset's entry that one stage reads, as JSON.

        What only other stages read is not in it, so editing that reruns nothing here.
        """

        @with_signature
        def part(wildcards: Wildcards) -> str:
            entry = self.plan.dataset(wildcards.dataset)
            if stage == "import":
                return json.dumps({key: entry[key] for key in IMPORT_KEYS if key in entry}, sort_keys=True)
            if stage == "split":
                return json.dumps(self._placed(self.plan.split(wildcards.dataset, wildcards.split)), sort_keys=True)
            settings = dict(entry.get(stage, {}))
            if stage == "partition":  # says which unit the split holds out
                settings["split"] = self.plan.split(wildcards.dataset, wildcards.split)
            return json.dumps(settings, sort_keys=True)

        return part

    def _placed(self, entry: dict[str, Any]) -> dict[str, Any]:
        """A split's entry with its paths as they are on this machine."""
        key = self.plan.split_type(entry["type"]).get("FILES")
        return (
            {**entry, key: {name: str(self.plan.located(file)) for name, file in entry[key].items()}} if key else entry
        )

    def split_files(self, wildcards: Wildcards) -> list[str]:
        """The local files a split reads, as far as they are there: a change of theirs reruns it. Checks the fold."""
        self.plan.check_fold(wildcards)
        entry = self._placed(self.plan.split(wildcards.dataset, wildcards.split))
        key = self.plan.split_type(entry["type"]).get("FILES", "")
        files = entry.get(key, {})
        chosen = [files[wildcards.fold]] if key == "folds" and wildcards.fold in files else files.values()
        return [path for path in chosen if Path(path).is_file()]

    def source_files(self, wildcards: Wildcards) -> list[str]:
        """The local files an import reads, as far as they are there: a change of theirs reruns it.

        Of a folder they are the files in it. A file with an address is the affair of :meth:`fetched`.
        """
        files = self.plan.files(wildcards.dataset)
        paths = [self.plan.located(file) for file in files if not has_url(file)]
        inside = [file for path in paths if path.is_dir() for file in sorted(path.glob("[!.]*"))]
        return [str(path) for path in [*paths, *inside] if path.is_file()]

    def fetched(self, wildcards: Wildcards) -> list[str]:
        """What says that the files with an address are there; nothing for a dataset without such files.

        These files are no inputs: a plan would see them only once they are there, and run the import again.
        """
        return [f"results/{wildcards.dataset}/fetched.json"] if self.plan.remote(wildcards.dataset) else []

    def remote_files(self, wildcards: Wildcards) -> str:
        """The files of a dataset that have an address, as JSON: where they are put, address and checksum."""
        remote = self.plan.remote(wildcards.dataset)
        if not remote:
            raise WorkflowError(f"dataset {wildcards.dataset} has no file with a url: there is nothing to fetch")
        return json.dumps([{key: file[key] for key in TRANSFER_KEYS if key in file} for file in remote])

    def settings(self, wildcards: Wildcards) -> str:
        """Class and parameters of a model, and what it needs to know of perturbations, as JSON."""
        entry, params = self.plan.model(wildcards.model), self.plan.params(wildcards.model, wildcards.variant)
        if "features" in entry["needs"]:
            params["features"] = self.plan.features(wildcards.dataset, wildcards.model, wildcards.variant)
        settings: dict[str, Any] = {"class": entry["class"], "params": params}
        if needs := [name for name in entry["needs"] if name in KNOWLEDGE]:
            settings["needs"] = needs
        return json.dumps(settings, sort_keys=True)

    def train_inputs(self, wildcards: Wildcards) -> dict[str, str | list[str]]:
        """train.h5ad and, for a model that needs them, the pairs of its set size. Refuses what cannot run."""
        self.plan.check(wildcards)
        fold = f"results/{wildcards.dataset}/{wildcards.split}/{wildcards.fold}"
        pairs = []
        if "pairs" in self.plan.model(wildcards.model)["needs"]:
            pairs = [f"{fold}/pairs_S{self.plan.params(wildcards.model, wildcards.variant)['set_size']}.npz"]
        return {"train": f"{fold}/train.h5ad", "pairs": pairs}

    def floor_scores(self, wildcards: Wildcards) -> list[str]:
        """The scores of both floors on all folds of a split."""
        split, seed = f"results/{wildcards.dataset}/{wildcards.split}", self.plan.run["seeds"][0]
        folds = self.plan.folds(wildcards.dataset, wildcards.split)
        return [f"{split}/{fold}/{floor}/default/seed{seed}/scores.parquet" for fold in folds for floor in FLOORS]

    def ceilings(self, wildcards: Wildcards) -> list[str]:
        """The technical duplicate on all folds of a split."""
        split = f"results/{wildcards.dataset}/{wildcards.split}"
        return [f"{split}/{fold}/ceiling.parquet" for fold in self.plan.folds(wildcards.dataset, wildcards.split)]

    def adopted_file(self, wildcards: Wildcards) -> str:
        """The file that others predicted. Refuses a dataset or split that it is not for."""
        entry = self.plan.prediction(wildcards.model)
        for key, value in (("dataset", wildcards.dataset), ("split", wildcards.split)):
            if entry[key] != value:
                raise WorkflowError(f"prediction {wildcards.model} is for {key} {entry[key]}, not {value}")
        return str(entry["path"])

    def adoption(self, wildcards: Wildcards) -> str:
        """How such a file is read, as JSON."""
        entry = self.plan.prediction(wildcards.model)
        return json.dumps({key: entry[key] for key in ADOPTION_KEYS if key in entry}, sort_keys=True)

    @property
    def tracking(self) -> str:
        """Where trainings report, as JSON."""
        return json.dumps(self.plan.config["tracking"], sort_keys=True)

    @property
    def evaluation(self) -> str:
        """The evaluation settings, as JSON."""
        return json.dumps(self.plan.config["evaluation"], sort_keys=True)

    @property
    def halving(self) -> str:
        """Those of them that say how test cells are halved, as JSON."""
        return json.dumps({key: self.plan.config["evaluation"][key] for key in ("duplicate_halvings", "seed")})

    def environment(self, wildcards: Wildcards) -> str:
        """The env file of a model, as seen from ``rules/``."""
        return f"../envs/{self.plan.model(wildcards.model)['env']}.yaml"

    @property
    def threads(self) -> int | Callable[[Wildcards], int]:
        """How many threads a model computes on: one number where all models agree, else a function of the wildcards."""

        @with_signature
        def of_model(wildcards: Wildcards) -> int:
            return int(self.plan.model(wildcards.model)["threads"])

        agreed = {entry["threads"] for entry in self.plan.config["models"].values()}
        return agreed.pop() if len(agreed) == 1 else of_model

    @property
    def thread_variables(self) -> str | Callable[[Wildcards], str]:
        """The same as variables of a command's environment; Snakemake's own follow the cores that are left to a job."""

        @with_signature
        def of_model(wildcards: Wildcards) -> str:
            return " ".join(f"{name}={self.plan.model(wildcards.model).get('threads', 1)}" for name in THREADS)

        threads = self.threads
        return of_model if callable(threads) else " ".join(f"{name}={threads}" for name in THREADS)

    def resources(self, rule: str) -> dict[str, Any]:
        """What a job of a rule books: memory, time and partition from ``resources:``, what its model says first.

        Where jobs are submitted, one that failed is submitted again with as many times the memory and the time as it
        has attempts. Snakemake calls every function anew for every job, so only what depends on the job is one.
        """
        table = self.plan.config["resources"]
        entry = {**table["every"], **table.get(rule, {})}
        of_models = rule in MODEL_RULES

        def wanted(name: str, wildcards: Wildcards) -> Any:
            return self.plan.model(wildcards.model).get(name, entry.get(name)) if of_models else entry[name]

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
        if REGISTRY in self.plan.source.closure(*files):
            defined = self.plan.source.metrics()
            files = (*files, *sorted({defined[name] for name in self.plan.config["evaluation"]["metrics"]}))
        return self.plan.source.hash(STARTER, *files)

    def import_code(self, *files: str) -> Callable[[Wildcards], str]:
        """A function of the wildcards: :meth:`code` of files together with the reader of the dataset's source."""

        def code(wildcards: Wildcards) -> str:
            return self.code(*files, self.plan.reader(wildcards.dataset))

        return with_signature(code)

    def split_code(self, *files: str) -> Callable[[Wildcards], str]:
        """A function of the wildcards: :meth:`code` of files together with the module of the split's type."""

        def code(wildcards: Wildcards) -> str:
            return self.code(*files, f"{SPLITS}/{self.plan.split(wildcards.dataset, wildcards.split)['type']}.py")

        return with_signature(code)

    def model_code(self, stage: str) -> Callable[[Wildcards], str]:
        """A function of the wildcards: :meth:`code` of a stage's script together with the model's file."""

        def code(wildcards: Wildcards) -> str:
            module = self.plan.model(wildcards.model)["class"].rpartition(".")[0]
            return self.code(f"workflow/scripts/{stage}.py", f"src/{module.replace('.', '/')}.py")

        return with_signature(code)
