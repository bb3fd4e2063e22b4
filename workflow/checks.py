"""What is checked before anything runs: the configuration against its schema, and that results can be written.

What is wrong is said in words: where, what, and the nearest name or the remedy.
"""

import difflib
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

from code_hash import READERS, SPLIT_SETTINGS, SPLITS, Code
from plan import RESERVED
from schema import config_schema

FILES = {"datasets": "config/datasets.yaml", "models": "config/models.yaml"}
NO_RUN = {"--lint", "--list", "-l", "--list-rules", "--list-target-rules", "--lt"}  # Snakemake gives these a core


def check_config(config: Mapping[str, Any], code: Code) -> None:
    """Raises a WorkflowError that lists every fault of the merged configuration."""
    validator = jsonschema.Draft202012Validator(config_schema(code))
    faults = [line for error in validator.iter_errors(dict(config)) for line in _in_words(error)]
    faults = faults or list(_of_modules(config, code))
    if faults:
        raise WorkflowError("the configuration has faults:\n" + "\n".join(f"  {line}" for line in sorted(set(faults))))


def _of_modules(config: Mapping[str, Any], code: Code) -> Iterable[str]:
    """What readers and types of splits say of a dataset's entry."""
    readers, types = code.modules(READERS), code.modules(SPLITS)
    common = code.constants(SPLIT_SETTINGS)["COMMON"]
    for name, entry in config["datasets"].items():
        place = f"{FILES['datasets']}: datasets.{name}"
        if name in RESERVED:
            yield f"{place}: results/{name} is a folder of all datasets; choose another name"
        if "columns" not in entry and "COLUMNS" not in code.constants(readers[entry["source"]["format"]]):
            yield f"{place}: 'columns' is a required property"
        for split, definition in entry["splits"].items():
            known = [*common, *code.constants(types[definition["type"]])["SETTINGS"]]
            for key in set(definition) - set(known):
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                has = f"(it has: {', '.join(known)})"
                yield f"{place}.splits.{split}: type {definition['type']} has no key '{key}'{hint} {has}"
            if "k" not in known and not definition.get("folds"):
                yield f"{place}.splits.{split}: type {definition['type']} needs folds: names, and what each holds out"
            if "k" in definition and "folds" in definition:
                yield f"{place}.splits.{split}: both k and folds are given; give one"


def check_writable(folder: Path, workflow: Any) -> None:
    """Raises a WorkflowError if a run could write nothing below ``folder``; of anything but a run it asks nothing."""
    if not _starts_a_run(workflow):
        return
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        read_only = os.statvfs(place).f_flag & os.ST_RDONLY
        reason = "its file system is mounted read-only" if read_only else "you may not write there"
        remedy = "mount it writable, change its permissions"
    elif (disk := shutil.disk_usage(place)).total and not disk.free:  # then not even a log would say why a job fails
        reason, remedy = "its disk is full", "make room there"
    else:
        return
    raise WorkflowError(f"{place}: results cannot be written: {reason}; {remedy}, or make {folder} a link to elsewhere")


def check_software(workflow: Any) -> None:
    """Raises a WorkflowError if a run would not use the environments of the rules; without them no job can import."""
    methods = workflow.deployment_settings.deployment_method
    if _starts_a_run(workflow) and DeploymentMethod.CONDA not in methods:
        raise WorkflowError("the rules bring their software as conda environments, which are off; add --sdm conda")


def check_import(root: Path, workflow: Any) -> None:
    """Raises a WorkflowError for a ``module:`` with a prefix, and for two versions of this in one workflow."""
    path = "results/tables"
    if workflow.modifier.path_modifier.replace_prefix(path) != path:
        raise WorkflowError(
            "module: prefix: and replace_prefix: cannot be used here, for the jobs themselves write to results/; take "
            "them out and name the rules apart: use rule * from trueshift as trueshift_*"
        )
    if not (root / "workflow/checks.py").samefile(__file__):
        raise WorkflowError(f"two versions of the workflow cannot run together: {Path(__file__).parents[1]} and {root}")


def _starts_a_run(workflow: Any) -> bool:
    reads_only = workflow.output_settings.dryrun or not (
        workflow.resource_settings.cores or workflow.resource_settings.nodes  # --unlock, --summary and others need none
    )
    inside_a_job = workflow.remote_exec or workflow.subprocess_exec
    return not (reads_only or inside_a_job or NO_RUN & set(sys.argv))


def _in_words(error: jsonschema.ValidationError) -> Iterable[str]:
    keys = [str(key) for key in error.absolute_path]
    place = f"{FILES.get(keys[0] if keys else '', 'config/config.yaml')}: {'.'.join(keys) or 'top level'}"
    if error.validator == "additionalProperties" and isinstance(error.schema.get("properties"), Mapping):
        known = list(error.schema["properties"])
        for key in set(error.instance) - set(known):
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            yield f"{place}: unknown key '{key}'{hint} (known: {', '.join(known)})"
    elif error.validator == "anyOf" and error.context:
        best = jsonschema.exceptions.best_match([error])
        yield from _in_words(best) if best is not error else [f"{place}: {error.message}"]
    elif error.validator == "pattern" and error.schema.get("pattern", "").startswith("^[A-Za-z0-9"):
        yield f"{place}: '{error.instance}' becomes part of a path; use only A-Z a-z 0-9 . _ - and no leading dot"
    elif error.validator == "enum":
        near = difflib.get_close_matches(str(error.instance), [str(v) for v in error.validator_value], 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        yield f"{place}: unknown value '{error.instance}'{hint} (known: {', '.join(map(str, error.validator_value))})"
    else:
        yield f"{place}: {error.message}"
