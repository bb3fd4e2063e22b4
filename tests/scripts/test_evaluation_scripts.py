"""The command lines of reference.py, ceiling.py and score.py on a small made-up test."""

import subprocess
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from running import script
from scipy import sparse

from trueshift.contract import make_prediction, write_h5ad
from trueshift.evaluation.duplicates import CEILING_COLUMNS
from trueshift.evaluation.halves import Duplicates, Halves, read_arrays
from trueshift.evaluation.scoring import LABELS, SCORE_COLUMNS
from trueshift.evaluation.truth import read_conditions

SETTINGS = {"metrics": ["r2_topk", "pearson_delta", "mse"], "k": [20, "all"], "duplicate_halvings": 2, "seed": 0}
RUN = "dataset=d,split=s,fold=1,model=no_change,variant=default,seed=0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """truth.h5ad, query.h5ad and the prediction "nothing changes"; a perturbation that moves half of 24 genes."""
    rng = np.random.default_rng(0)
    rate = np.linspace(0.5, 4, 24)
    moved = rate * np.where(np.arange(24) % 2, 3, 1)
    roles = ["test"] * 60 + ["control_input"] * 60 + ["control_reference"] * 60
    matrix = np.log1p(np.concatenate([rng.poisson(moved, (60, 24)), rng.poisson(rate, (120, 24))])).astype(np.float32)
    obs = pd.DataFrame({"role": roles, "context": "A", "batch": "b"}, index=[f"c{i}" for i in range(180)])
    obs["is_control"] = obs["role"] != "test"
    obs["perturbation"] = np.where(obs["is_control"], "control", "P")
    obs["dose"] = np.where(obs["is_control"], "0", "1")
    table = pd.DataFrame({"context": ["A"], "perturbation": "P", "dose": "1", "modality": "drug"})
    table = table.assign(n_cells=60, n_seen=1)
    truth = ad.AnnData(
        sparse.csr_matrix(matrix),
        obs=obs,
        var=pd.DataFrame(index=[f"g{i}" for i in range(24)]),
        uns={"conditions": table, "trueshift": {"schema_version": 1, "kind": "lognorm", "cluster": "perturbation"}},
    )
    query = truth[obs["role"] == "control_input"].copy()
    made = tmp_path_factory.mktemp("road")
    write_h5ad(truth, made / "truth.h5ad")
    write_h5ad(query, made / "query.h5ad")
    write_h5ad(make_prediction(query, query.X.mean(axis=0).reshape(1, -1)), made / "prediction.h5ad")
    train = truth[obs["role"] != "control_reference"].copy()
    train.obs["role"] = train.obs["role"].astype(str).replace("test", "train")
    write_h5ad(train, made / "train.h5ad")
    done = script(
        "reference",
        made,
        truth="truth.h5ad",
        train="train.h5ad",
        settings=SETTINGS,
        out="truth_stats.parquet",
        halves="halves.npz",
        duplicates="duplicates.npz",
    )
    assert done.returncode == 0, done.stderr
    assert "1 conditions, 24 genes" in done.stdout
    return made


def scores(folder: Path, **changed: Any) -> subprocess.CompletedProcess[str]:
    arguments: dict[str, Any] = {
        "prediction": "prediction.h5ad",
        "truth": "truth.h5ad",
        "halves": "halves.npz",
        "truth_stats": "truth_stats.parquet",
        "settings": SETTINGS,
        "labels": RUN,
        "out": "scores.parquet",
    }
    return script("score", folder, **(arguments | changed))


def test_reference_writes_its_three_files(folder: Path) -> None:
    conditions = read_conditions(folder / "truth_stats.parquet")
    assert conditions[["n_cells", "n_controls"]].to_numpy().tolist() == [[60, 120]]
    assert conditions.loc[0, "n_deg"] >= 10
    assert len(read_arrays(folder / "halves.npz", Halves)) == 2
    assert read_arrays(folder / "duplicates.npz", Duplicates).mean.shape == (2, 1, 24)


def test_ceiling_scores_one_half_against_the_other(folder: Path) -> None:
    files = {"truth_stats": "truth_stats.parquet", "halves": "halves.npz", "duplicates": "duplicates.npz"}
    done = script("ceiling", folder, **files, settings=SETTINGS, out="ceiling.parquet")
    assert done.returncode == 0, done.stderr
    ceiling = pd.read_parquet(folder / "ceiling.parquet")
    assert ceiling.columns.tolist() == CEILING_COLUMNS
    assert ceiling["ceiling_use"].unique().tolist() == ["condition"]
    assert ceiling.loc[ceiling["metric"] == "r2_topk", "value"].min() > 0.5


def test_score_writes_labelled_rows(folder: Path) -> None:
    done = scores(folder)
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(folder / "scores.parquet")
    assert table.columns.tolist() == [*LABELS, *SCORE_COLUMNS]
    assert table[["metric", "k"]].to_numpy().tolist() == [
        ["r2_topk", "20"],
        ["r2_topk", "all"],
        ["pearson_delta", ""],
        ["mse", ""],
    ]
    np.testing.assert_allclose(table["value"].iloc[:3], 0, atol=1e-6)
    assert (table["n_halvings"] == 2).all()
    np.testing.assert_allclose(table["value_half"].iloc[:3], 0, atol=1e-6)
    assert table["flags"].tolist() == ["", "", "constant_prediction", ""]
    assert table.loc[0, list(LABELS)].tolist() == ["d", "s", "1", "no_change", "default", "0"]


def test_mistakes_are_one_line(folder: Path) -> None:
    wrong = ad.read_h5ad(folder / "prediction.h5ad")
    wrong.X[0, 0] = np.nan
    write_h5ad(wrong, folder / "wrong.h5ad")
    for changed, message in (
        ({"settings": {"metrics": ["r2_top"], "k": [20]}}, "r2_top is unknown; did you mean r2_topk?"),
        ({"labels": "dataset=d"}, "labels: fold is missing"),
        ({"prediction": "wrong.h5ad"}, "wrong.h5ad: predicted values are NaN"),
        ({"truth_stats": "none.parquet"}, "none.parquet: no such file"),
    ):
        done = scores(folder, out="never.parquet", **changed)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert message in done.stderr
    assert not (folder / "never.parquet").exists()
