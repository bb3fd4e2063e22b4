"""A whole run on real cells, asked for as a user does. TRUESHIFT_DATA names the folder that holds them."""

import os
from pathlib import Path

import pandas as pd
import pytest
import yaml
from project import Project

FOLDER = os.environ.get("TRUESHIFT_DATA")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="TRUESHIFT_DATA is not set")

MEASURED = "TMSB4X"  # the one target of five whose gene is among the 1,000 that the file has
FOLDS = {"measured": [MEASURED], "other": ["MED12"]}
FEATURE_MODELS = ["linear", "knn_features"]
SETTINGS = {
    "data_folder": FOLDER,
    "run": {"datasets": ["vcc_h1"], "splits": ["all"], "models": FEATURE_MODELS, "seeds": [0]},
    "evaluation": {"metrics": ["r2_topk", "pearson_delta", "mse"], "k": [20], "duplicate_halvings": 2},
    "datasets": {
        "vcc_h1": {
            "kind": "counts",
            "source": {"format": "h5ad", "path": "{data}/vcc_h1/H1-VCC-2025-training.h5ad"},
            "columns": {
                "perturbation": {"from": "target_gene", "control": "non-targeting", "separator": None},
                "context": {"value": "H1"},
                "batch": "batch",
                "modality": {"value": "CRISPRi"},
            },
            "targets_measured": True,
            "qc": {"min_genes": 10, "min_cells": 10},
            "splits": {
                "new_perturbation": {
                    "type": "unseen_perturbation",
                    "folds": {"measured": [MEASURED], "other": ["MED12"]},
                }
            },
        }
    },
}


def test_models_with_features_end_well_where_one_target_of_five_is_measured(tmp_path: Path) -> None:
    (config := tmp_path / "vcc.yaml").write_text(yaml.safe_dump(SETTINGS))
    project = Project(tmp_path / "project", config=config)
    tables = {name: f"results/tables/{name}.csv" for name in ("topk_r2", "undefined", "leaderboard")}
    project.snakemake(*tables.values(), "--cores", "2")
    board, undefined, _ = (pd.read_csv(project.folder / path, dtype={"k": str}) for path in tables.values())
    means = board.query("metric == 'mse' and fold == 'all' and context == 'all' and seed == 'all'").set_index("model")
    for model in ("no_change", "mean_shift"):
        assert means.at[model, "n_conditions"] == 2 and means.at[model, "value"] > 0
    # The fold that holds out the measured target teaches nothing. The others ask for targets without features.
    reasons = undefined.query("metric == 'mse'").groupby("model")["reason"].unique()
    for model in FEATURE_MODELS:
        assert means.at[model, "n_conditions"] == 0 and means.at[model, "n_undefined"] == 2
        assert reasons[model].tolist() == ["no features"]
