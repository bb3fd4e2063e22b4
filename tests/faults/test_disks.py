"""A full disk and a read-only one: one line that says what to do, nothing half written, and on it goes afterwards."""

import os
import subprocess
from pathlib import Path

import pytest
from breaking import FOLD, SLOW, Faulty, assert_same_scores, mounted, needs_root, partials, resize

PAGE = os.sysconf("SC_PAGE_SIZE")
SHIFT = f"{FOLD}/mean_shift/default/seed0"


@pytest.fixture
def small(finished, tmp_path):
    """A copy of the finished project whose results are on a disk of their own."""
    project = Faulty(tmp_path / "project", of=finished)
    results, aside = project.folder / "results", project.folder / "aside"
    results.rename(aside)
    with mounted(results, "-t", "tmpfs", "-o", "size=64m", "trueshift-faults"):
        subprocess.run(["cp", "-a", f"{aside}/.", results], check=True)
        yield project


# what is written, in which form (each library has its own words for a full disk), by the command for what, and where
WRITTEN = [
    ("results/mini/normalized.h5ad", "results/mini/normalized.h5ad", "data"),
    (f"{FOLD}/split.csv", f"{FOLD}/split.csv", "data"),
    (f"{FOLD}/pairs_S8.npz", f"{FOLD}/pairs_S8.npz", "data"),
    (f"{SHIFT}/scores.parquet", f"{SHIFT}/scores.parquet", "evaluation"),
    ("results/figures/leaderboard.png", "results/figures/leaderboard.png", "evaluation"),
    (f"{SHIFT}/model", f"{SHIFT}/model", "baselines"),
    (f"{SLOW}/resume/state.pt", f"{SLOW}/model", "torch"),
]


@needs_root
@pytest.mark.parametrize("free", [0, PAGE], ids=["full", "almost full"])
@pytest.mark.parametrize(("artefact", "made", "environment"), WRITTEN)
def test_a_write_without_room_is_one_line_and_leaves_nothing(small, stage, artefact, made, environment, free):
    before = small.times()
    resize(small.folder / "results", free)
    done = stage(small, made, environment)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {artefact}: no space left on its disk")
    assert "make room (df -h results/" in done.stderr
    assert done.stderr.count("\n") == 1
    assert small.times() == before
    assert not partials(small)


def test_a_log_on_a_full_disk_is_one_line(project, stage):
    before = project.times()
    with Path("/dev/full").open("w") as log:
        done = stage(project, f"{SLOW}/model", "torch", stdout=log)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the log or a temporary file: no space left on its disk")
    assert done.stderr.count("\n") == 1
    assert project.times() == before


@needs_root
def test_after_a_full_disk_the_same_command_goes_on(small, finished):
    small.remove(f"{SHIFT}/model", f"{SHIFT}/prediction.h5ad", f"{SHIFT}/scores.parquet")
    before = small.times()
    resize(small.folder / "results", 0)
    refused = small.run(f"{SHIFT}/scores.parquet", check=False)
    assert refused.returncode != 0
    assert f"{small.folder}/results: results cannot be written: its disk is full; make room there" in refused.stdout
    assert "Job stats" not in refused.stdout, "it came too late"
    resize(small.folder / "results", 5 * PAGE)  # room for the model, its checksum and logs, not for the prediction
    failed = small.run(f"{SHIFT}/scores.parquet", check=False)
    assert failed.returncode != 0
    assert f"error: {SHIFT}/prediction.h5ad: no space left on its disk" in failed.stdout
    assert "Traceback" not in failed.stdout
    after = small.times()
    assert f"{SHIFT}/prediction.h5ad" not in after
    model = next(name for name in after if name.startswith(f"{SHIFT}/model/weights"))
    assert not partials(small)
    resize(small.folder / "results", 16 << 20)
    small.run(f"{SHIFT}/scores.parquet")
    assert_same_scores(small.scores(SHIFT), finished.scores(SHIFT))
    again = small.times()
    assert again[model] == after[model] != before.get(model), "the model was finished"


@needs_root
def test_a_read_only_folder_is_named_before_anything_runs(project):
    results = project.folder / "results"
    log = results / "logs" / f"{SHIFT.removeprefix('results/')}/score.log"
    written = log.stat().st_mtime_ns
    with mounted(results, "--bind", results):
        subprocess.run(["mount", "-o", "remount,ro,bind", results], check=True)
        for target in (f"{SHIFT}/scores.parquet", f"{FOLD}/additive/default/seed0/scores.parquet"):
            refused = project.run(target, "--forcerun", "score", check=False)
            assert refused.returncode != 0
            assert f"{results}: results cannot be written: its file system is mounted read-only" in refused.stdout
            assert "make results a link to elsewhere" in refused.stdout
            assert "Traceback" not in refused.stdout
            assert "Job stats" not in refused.stdout, "it came too late"
        for reads in (["-n", f"{SHIFT}/scores.parquet"], ["--list-rules"], ["--lint"], ["--summary"], ["--unlock"]):
            assert "cannot be written" not in project.snakemake(*reads, check=False).stdout
    assert log.stat().st_mtime_ns == written
    project.run(f"{SHIFT}/scores.parquet", "--forcerun", "score")
    assert log.stat().st_mtime_ns > written
