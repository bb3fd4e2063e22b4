"""A truncated or flipped artefact of every stage is refused by name where it is read, and made again when deleted."""

import os

import pytest
from breaking import FOLD, RUN, SLOW, Faulty, assert_same_scores

FLOOR = f"{FOLD}/no_change/default/seed0"
# artefact, a rule that reads it (its output, by which the command is found), and that rule's environment
READ = [
    ("results/mini/imported.h5ad", "results/mini/qc.h5ad", "data"),
    ("results/mini/qc.h5ad", "results/mini/normalized.h5ad", "data"),
    ("results/mini/normalized.h5ad", f"{FOLD}/split.csv", "data"),
    (f"{FOLD}/split.csv", f"{FOLD}/genes.csv", "data"),
    (f"{FOLD}/genes.csv", f"{FOLD}/train.h5ad", "data"),
    (f"{FOLD}/train.h5ad", f"{FOLD}/pairs_S8.npz", "data"),
    (f"{FOLD}/query.h5ad", f"{FLOOR}/prediction.h5ad", "baselines"),
    (f"{FOLD}/truth.h5ad", f"{FOLD}/truth_stats.parquet", "evaluation"),
    (f"{FOLD}/pairs_S8.npz", f"{SLOW}/model", "torch"),
    (f"{FOLD}/truth_stats.parquet", f"{FLOOR}/scores.parquet", "evaluation"),
    (f"{FOLD}/halves.npz", f"{FLOOR}/scores.parquet", "evaluation"),
    (f"{FOLD}/duplicates.npz", f"{FOLD}/ceiling.parquet", "evaluation"),
    (f"{FOLD}/ceiling.parquet", "results/mini/new_context/calibration.parquet", "evaluation"),
    (f"{SLOW}/model", f"{SLOW}/prediction.h5ad", "torch"),
    (f"{FLOOR}/prediction.h5ad", f"{FLOOR}/scores.parquet", "evaluation"),
    (f"{FLOOR}/scores.parquet", "results/tables/topk_r2.csv", "evaluation"),
    ("results/mini/new_context/calibration.parquet", "results/tables/calibration.csv", "evaluation"),
    (f"{FOLD}/leaks.csv", "results/tables/leaks.csv", "evaluation"),
    (f"{FLOOR}/train_cost.json", "results/tables/cost.csv", "evaluation"),
    ("results/tables/topk_r2.csv", "results/figures/topk_r2.png", "evaluation"),
    ("results/tables/leaderboard.csv", "results/figures/leaderboard.png", "evaluation"),
]


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    """One bit in the middle; size and time stay, as when a disk forgets."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(times.st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture(scope="module")
def opened(finished, tmp_path_factory):
    """A copy of the finished project, whole again after each test."""
    return Faulty(tmp_path_factory.mktemp("damaged") / "project", of=finished)


@pytest.mark.parametrize("damage", [truncate, flip])
@pytest.mark.parametrize(("artefact", "output", "environment"), READ)
def test_a_damaged_artefact_is_refused_by_name(opened, stage, artefact, output, environment, damage):
    path = opened.folder / artefact
    victim = max(path.rglob("*"), key=lambda file: file.stat().st_size) if path.is_dir() else path
    whole, times = victim.read_bytes(), victim.stat()
    damage(victim)
    before = opened.times()
    try:
        done = stage(opened, output, environment)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {artefact}: damaged")
        assert "delete it so that it is made again" in done.stderr
        assert done.stderr.count("\n") == 1
        assert opened.times() == before, "something was written"
    finally:
        victim.write_bytes(whole)
        os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_what_was_damaged_is_made_again_once_deleted_with_the_same_scores(project, finished):
    tables = ["results/tables/topk_r2.csv", "results/tables/leaderboard.csv"]
    targets = [*tables, f"{SLOW}/scores.parquet"]
    prediction = f"{SLOW}/prediction.h5ad"
    flip(project.folder / prediction)
    project.remove(f"{SLOW}/scores.parquet")
    refused = project.run(*targets, check=False)
    assert refused.returncode != 0
    assert f"error: {prediction}: damaged" in refused.stdout
    assert "Traceback" not in refused.stdout
    damaged = [
        prediction,
        f"{FOLD}/truth_stats.parquet",
        f"{FLOOR}/model",
        "results/mini/new_context/calibration.parquet",
    ]
    for name in damaged[1:]:
        path = project.folder / name
        truncate(next(path.glob("weights*")) if path.is_dir() else path)
    project.remove(*damaged)
    project.run(*targets)
    for chain in (SLOW, FLOOR):
        assert_same_scores(project.scores(chain), finished.scores(chain))
    for name in tables:
        assert (project.folder / name).read_bytes() == (finished.folder / name).read_bytes()
    assert "Nothing to be done" in project.snakemake(*targets, *RUN, "-n").stdout
