"""The machine and the Snakemake that the workflow meets: whether a run can start, what its jobs are told of both."""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import psutil
from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

NO_RUN = {"--lint", "--list", "-l", "--list-rules", "--list-target-rules", "--lt"}  # Snakemake gives these a core


def plans(workflow: Any) -> bool:
    """Whether Snakemake was called to run jobs or to show those that it would run; not so within a job."""
    settings = workflow.resource_settings
    asked = settings.cores or settings.nodes or workflow.output_settings.dryrun  # --unlock, --summary need none
    return bool(asked) and not (workflow.remote_exec or workflow.subprocess_exec) and not NO_RUN & set(sys.argv)


def starts(workflow: Any) -> bool:
    """Whether Snakemake was called to run jobs; not so within a job."""
    return plans(workflow) and not workflow.output_settings.dryrun


def check_writable(folder: Path, workflow: Any) -> None:
    """Raises a WorkflowError if a run could write nothing below ``folder``."""
    if not starts(workflow):
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
    if starts(workflow) and DeploymentMethod.CONDA not in methods:
        raise WorkflowError("the rules bring their software as conda environments, which are off; add --sdm conda")


def check_import(root: Path, workflow: Any) -> None:
    """Raises a WorkflowError for a ``module:`` with a prefix, and for two versions of this in one workflow."""
    path = "results/tables"
    if workflow.modifier.path_modifier.replace_prefix(path) != path:
        raise WorkflowError(
            "module: prefix: and replace_prefix: cannot be used here, for the jobs themselves write to results/; take "
            "them out and name the rules apart: use rule * from trueshift as trueshift_*"
        )
    if not (root / "workflow/host.py").samefile(__file__):
        raise WorkflowError(f"two versions of the workflow cannot run together: {Path(__file__).parents[1]} and {root}")


def memory_mb(share: float = 0.85) -> int:
    """The memory that jobs of this host may book together: a share of what the machine, or its cgroup, has."""
    total = psutil.virtual_memory().total
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    return int(total * share / 2**20)


def refuse_misread(*folders: Path) -> None:
    """Raises a WorkflowError for a folder whose name a shell would read: commands and Snakemake do not quote it."""
    for folder in folders:
        if not re.fullmatch(r"[\w./+@:=,-]+", str(folder)):
            raise WorkflowError(f"{folder}: a shell would misread that name; move or rename the folder")


def tell_commands(root: Path) -> None:
    """Tells the commands of rules where the workflow lies. They name no folder, so a move of it reruns nothing."""
    os.environ["TRUESHIFT"] = str(root)


def offer_conda(root: Path) -> None:
    """Puts the stand-in for conda last on PATH, so that a real conda wins, and tells it which Python drives."""
    place = str(root / "envs/fallback/bin")
    if place not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] += os.pathsep + place
    os.environ.setdefault("TRUESHIFT_DRIVER_PYTHON", sys.executable)
