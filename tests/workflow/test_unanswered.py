"""Folds in which some models can learn nothing, or answer nothing: the tables of the others are made all the same."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from project import Project

GENES, CELLS, CONTROLS = 40, 30, 60
KNOWN = ["A", "B"]  # those with features
SETTINGS = {
    "data_folder": "data",
    "run": {
        "datasets": ["gaps"],
        "splits": ["all"],
        "models": ["additive", "linear", "ridge_features", "knn_features", "context_mean"],
        "seeds": [0],
    },
    "evaluation": {
        "metrics": ["r2_topk", "legacy_r2_topk", "legacy_pearson", "pearson_delta", "mse", "pds_l2", "de_recall"],
        "k": [20, 40, 80],
        "duplicate_halvings": 2,
    },
    "datasets": {
        "gaps": {
            "kind": "counts",
            "source": {"format": "h5ad", "path": "{data}/cells.h5ad"},
            "columns": {"perturbation": {"from": "guide", "control": "none"}, "context": "line"},
            "features": {"known": "{data}/features.csv"},
            "qc": {"min_genes": 1, "min_cells": 1},
            "genes": {"flavor": "all"},
            "splits": {
                "new_line": {"type": "zero_shot_context", "folds": {"second": "line2"}},
                "new_perturbation": {"type": "unseen_perturbation", "folds": {"known": KNOWN}},
            },
        }
    },
}


def write_data(folder):
    """Counts of five perturbations in two lines, one of them (late) in the second alone; features of two."""
    rng = np.random.default_rng(0)
    base = rng.uniform(1, 6, GENES)
    blocks, rows = [], []
    for line, names in (("line1", ["A", "B", "C", "D"]), ("line2", ["A", "B", "C", "D", "late"])):
        for i, name in enumerate(["none", *names]):
            mean = base * np.where(np.arange(GENES) % 7 == i, 4, 1) if i else base
            n = CELLS if i else CONTROLS
            blocks.append(rng.poisson(mean, (n, GENES)))
            rows += [(line, name)] * n
    obs = pd.DataFrame(rows, columns=["line", "guide"], index=[f"cell{i}" for i in range(len(rows))])
    genes = pd.DataFrame(index=[f"GENE{i}" for i in range(GENES)])
    folder.mkdir()
    ad.AnnData(np.concatenate(blocks).astype(np.float32), obs, genes).write_h5ad(folder / "cells.h5ad")
    features = pd.DataFrame({"perturbation": KNOWN, "f0": [1.0, 0.5], "f1": [0.2, 1.0]})
    features.to_csv(folder / "features.csv", index=False)


@pytest.fixture(scope="module")
def gaps(tmp_path_factory):
    """A project in which the run has come to its tables."""
    folder = tmp_path_factory.mktemp("gaps") / "project"
    folder.mkdir()
    (config := folder / "gaps.yaml").write_text(yaml.safe_dump(SETTINGS))
    write_data(folder / "data")
    project = Project(folder, config=config)
    project.snakemake("--cores", "2")
    return project


def table(project, name):
    return pd.read_csv(project.folder / f"results/tables/{name}.csv", dtype={"k": str}, keep_default_na=False)


def test_reasons_are_counted_and_no_number_is_invented(gaps):
    counts = table(gaps, "undefined").query("metric == 'mse'").set_index(["split", "model", "reason"])["n"].to_dict()
    features = ["linear", "ridge_features", "knn_features"]
    expected = {("new_line", "additive", "not in training"): 1}
    expected |= {("new_line", model, "no features"): 3 for model in features}  # C, D and late
    expected |= {("new_perturbation", model, "no features"): 4 for model in features}  # A and B in two lines
    assert counts == expected
    for model in features:
        scores = gaps.folder / f"results/gaps/new_perturbation/known/{model}/default/seed0/scores.parquet"
        made = pd.read_parquet(scores)
        assert made["value"].isna().all() and made["value_half"].isna().all()
        assert made["reason"].eq("no features").all()


def test_all_models_are_in_the_tables_and_the_others_have_values(gaps):
    board = table(gaps, "topk_r2").query("metric == 'mse' and fold == 'all' and context == 'all' and seed == 'all'")
    values = board.set_index(["split", "model"])["value"]
    assert set(values["new_line"].index) == {"no_change", "mean_shift", *SETTINGS["run"]["models"]} - {"context_mean"}
    nothing = {"linear", "ridge_features", "knn_features"}
    assert set(values["new_perturbation"].index) == nothing | {"no_change", "mean_shift", "context_mean"}
    assert {model for (_, model), value in values.items() if value == ""} == nothing
    assert set(values[values == ""].index.get_level_values("split")) == {"new_perturbation"}
    assert values["new_line"].map(float).gt(0).all()
    ranked = table(gaps, "leaderboard").query("split == 'new_perturbation' and rank != ''")
    assert nothing.isdisjoint(ranked["model"])
    field = table(gaps, "topk_r2_results").query("split == 'new_perturbation'").set_index("model")
    assert field.loc[sorted(nothing), "r2_top20"].eq("").all()
    assert field.loc["context_mean", "r2_top20"].ne("").all()


def test_scatter_and_export_take_a_prediction_without_rows(gaps):
    run = "results/gaps/new_perturbation/known/linear/default/seed0"
    gaps.snakemake(f"{run}/scatter.png", f"{run}/prediction.npz", "--cores", "2")
    with np.load(gaps.folder / run / "prediction.npz", allow_pickle=False) as file:
        assert file["predictions"].shape == (0, GENES)
        assert len(file["unanswered_ids"]) == 4 * CELLS
