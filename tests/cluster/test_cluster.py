"""The mini configuration through profiles/slurm on a real SLURM, while things go wrong: the scores are the local ones.

On the way a job is out of memory, one hangs until its time is over, one is cancelled, a node is drained and the driver
killed.
"""

import contextlib
import json
import subprocess
import threading
import time
from collections import Counter

import pandas as pd
import psutil
import pytest
from project import ROOT, Project

DRIVER = ROOT / ".envs/slurm"
PROFILE = ["--workflow-profile", "profiles/slurm"]
PROFILE += ["--resources", "mem_mb=8000", "--latency-wait", "20"]  # what these nodes have, how near their disk is
PROFILE += ["--slurm-init-seconds-before-status-checks", "3", "--seconds-between-status-checks", "2"]
MODELS = ["ridge_control", "scgen/tiny", "state/tiny", "state/long"]
CANCELLED = "state_tiny_1"  # a training, by the end of its comment in the queue
HANGING = "state/long/seed0"
MORE = {
    "run": {"models": MODELS},
    "models": {
        "scgen": {"mem_mb": 450},  # too little for torch; twice is enough
        "state": {
            "mem_mb": 1200,
            "runtime": 1,  # minutes
            "variants": {
                "long": {
                    "set_size": 8,
                    "hidden": 32,
                    "layers": 1,
                    "heads": 4,
                    "mlp_hidden": 32,
                    "learning_rate": 3.0e-3,
                }
                | {"max_steps": 2000, "validate_every": 100, "patience": 1000}
            },
        },
    },
}


def configured(folder):
    file = folder / "more.yaml"
    file.write_text(json.dumps(MORE))
    return file


def scores(project):
    """All scores of a project, by file."""
    found = sorted((project.folder / "results").rglob("scores.parquet"))
    return {str(path.relative_to(project.folder)): pd.read_parquet(path) for path in found}


def slurm(*command):
    """The lines a SLURM command prints, split at |."""
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    return [line.split("|") for line in done.stdout.splitlines()]


def costs(project):
    """When each training wrote the last of its files."""
    return {path: path.stat().st_mtime for path in project.folder.glob("results/*/*/*/*/*/*/train_cost.json")}


class Troubles(threading.Thread):
    """Watches the queue and brings the troubles: a cancelled job, a drained node, a killed driver, a job that hangs."""

    def __init__(self, project, driver):
        super().__init__(daemon=True)
        self.project, self.driver = project, driver
        self.comments = {}  # what each job of the queue is, by its number
        self.cancelled = self.drained = None
        self.finished = {}  # when each training ended that the driver knew of when it was killed
        self.again = None  # the driver that is started then
        self.hanging = None

    def run(self):
        while not self.again or self.again.poll() is None:
            for job, state, comment in slurm("squeue", "-h", "-a", "-o", "%i|%T|%k"):
                self.comments[job] = comment
                if not self.cancelled and state == "RUNNING" and comment.endswith(CANCELLED) and "train" in comment:
                    slurm("scancel", job)
                    self.cancelled = job
                    slurm("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
                    self.drained = max(int(job) for (job,) in slurm("squeue", "-h", "-a", "-o", "%i"))
            finished = {path: when for path, when in costs(self.project).items() if time.time() - when > 15}
            if self.cancelled and not self.finished and len(finished) >= 3:  # by then the driver has heard of them
                self.driver.kill()
                self.finished = finished
                slurm("scancel", *[job for job, comment in self.comments.items() if "state_long" in comment])
            if self.again and not self.hanging:
                self.hang()
            time.sleep(0.2)

    def hang(self):
        """Stops the training that the second driver submitted, once it has a checkpoint: SLURM ends it for its time."""
        if not list(self.project.folder.glob(f"results/*/*/*/{HANGING}/resume/state.pt")):
            return
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                words = " ".join(process.cmdline())
                young = process.create_time() > self.again.create_time()
                if (
                    young
                    and process.cwd() == str(self.project.folder)
                    and "run.py train " in words
                    and HANGING in words
                ):
                    process.suspend()
                    self.hanging = process.pid


def started(project, more, name, *arguments):
    """A driver in the background; what it says goes to a file, for a pipe that nobody reads would fill up."""
    command = project.command(*(arguments or PROFILE), more=more)
    with (project.folder / name).open("w") as output:
        return psutil.Popen(command, cwd=project.folder, stdout=output, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The same configuration on this machine alone, on one core, begun before the first job is submitted."""
    project = Project(tmp_path_factory.mktemp("local"))
    more = configured(project.folder)
    return project, started(project, more, "local.txt", "--cores", "1", "--resources", "gpu=1")


@pytest.fixture(scope="module")
def local(begun):
    """The same configuration, run on this machine alone."""
    project, driver = begun
    assert driver.wait() == 0, (project.folder / "local.txt").read_text()
    return project


@pytest.fixture(scope="module")
def submitted(cluster, begun, tmp_path_factory):
    """The project after the troubles, what the driver that was started again said, and the troubles."""
    project = Project(tmp_path_factory.mktemp("submitted"), DRIVER)
    more = configured(project.folder)
    driver = started(project, more, "first.txt")
    troubles = Troubles(project, driver)
    troubles.start()
    driver.wait()
    said = (project.folder / "first.txt").read_text()
    assert troubles.finished, said
    refused = project.snakemake(*PROFILE, more=more, check=False)
    assert "--unlock" in refused.stdout
    project.snakemake("--unlock", *PROFILE, more=more)
    troubles.again = started(project, more, "again.txt")
    troubles.join()
    again = (project.folder / "again.txt").read_text()
    slurm("scontrol", "update", "nodename=n2", "state=resume")
    assert troubles.again.wait() == 0, again
    return project, said + again, troubles


def accounted(*fields, steps=False):
    """Fields of all jobs since the cluster was started, by job number; or of their steps, where commands run."""
    rows = slurm("sacct", *([] if steps else ["-X"]), "-n", "-P", "-S", "now-1hour", "-o", ",".join(("jobid", *fields)))
    return {row[0]: row[1:] for row in rows}


def test_scores_are_those_of_a_local_run(submitted, local):
    project, _, _ = submitted
    here, there = scores(local), scores(project)
    assert list(here) == list(there)
    assert len(here) > 10
    for name, table in here.items():
        pd.testing.assert_frame_equal(table, there[name], check_exact=True, obj=name)


def test_nothing_is_left_to_do(submitted):
    project, _, _ = submitted
    local_view = Project.snakemake(project, "-n", more=project.folder / "more.yaml")
    assert "Nothing to be done" in local_view.stdout


def test_each_trouble_came_and_its_job_was_submitted_again_with_more(submitted):
    _, said, troubles = submitted
    states = accounted("state", "reqmem", "timelimitraw")
    kinds = Counter(state.split()[0] for (state,) in accounted("state", steps=True).values())
    assert kinds["OUT_OF_MEMORY"] >= 1, kinds
    assert kinds["TIMEOUT"] >= 1, kinds
    assert states[troubles.cancelled][0].startswith("CANCELLED")
    assert {needed for _, needed, _ in states.values()} >= {"450M", "900M"}
    assert {limit for _, _, limit in states.values()} >= {"1", "2"}
    assert troubles.hanging
    assert "Trying to restart job" in said


def test_finished_trainings_are_not_repeated(submitted):
    project, _, troubles = submitted
    assert len(troubles.finished) >= 3
    now = costs(project)
    assert {path: now[path] for path in troubles.finished} == troubles.finished


def test_a_timed_out_training_went_on_from_its_checkpoint(submitted):
    project, _, _ = submitted
    (log,) = project.folder.glob(f"results/logs/*/*/*/{HANGING}/train.log")
    assert "resumed at step" in log.read_text()


def test_a_drained_node_gets_no_more_jobs(submitted):
    _, _, troubles = submitted
    later = {job: nodes for job, (nodes,) in accounted("nodelist").items() if int(job) > troubles.drained}
    assert set(later.values()) <= {"n1", "None assigned"}
    assert "n1" in later.values()


def test_light_jobs_are_grouped_and_trainings_never(submitted):
    _, _, troubles = submitted
    shown = Counter(comment.split("_wildcards")[0] for comment in troubles.comments.values())
    training = [comment for comment in troubles.comments.values() if "train" in comment]
    assert training
    assert all(comment.startswith("rule_train_wildcards") for comment in training), training
    assert shown["rule_score"] == shown["rule_split"] == shown["rule_predict"] == 0, shown
    jobs = accounted("alloctres", "state")
    gpus = [tres for tres, _ in jobs.values() if "gres/gpu=1" in tres]
    assert 0 < len(gpus) < len(jobs)


def test_environments_are_not_built_by_jobs(submitted):
    project, said, _ = submitted
    assert "Creating conda environment" not in said
    assert not (project.folder / ".snakemake/conda").exists() or not list(project.folder.glob(".snakemake/conda/*"))


def test_a_job_says_that_it_computed_without_the_gpu_it_booked(submitted):
    project, _, _ = submitted
    cost = pd.read_csv(project.folder / "results/tables/cost.csv")
    cost = cost[cost["rule"].isin(["train", "predict"])]
    booked = cost["model"].isin(["scgen", "state"])
    assert (cost.loc[booked, "cpu_fallback"].notna()).all()
    assert cost.loc[~booked, "cpu_fallback"].isna().all()
