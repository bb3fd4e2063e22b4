"""Published screens through the import stage. TRUESHIFT_DATA names the folder with their files."""

import os
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest

from trueshift.contract import check_canonical
from trueshift.data.loading import load

FOLDER = os.environ.get("TRUESHIFT_DATA")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="TRUESHIFT_DATA is not set")

PERTURBENCH: dict[str, Any] = {
    "kind": "lognorm",
    "source": {"format": "h5ad", "path": "{data}/perturbench_devel/devel.h5ad"},
    "columns": {
        "perturbation": {"from": "condition", "control": "control"},
        "context": "cell_type",
        "batch": "dataset",
        "dose": "dose",
        "modality": "perturbation_type",
    },
    "preselected_genes": True,
}


def get(settings: dict[str, Any], log: list[str] | None = None) -> ad.AnnData:
    data = load("set", settings, Path(str(FOLDER)), log=(log if log is not None else []).append)
    check_canonical(data, "set")
    return data


def test_kang2018() -> None:
    data = get(
        {
            "kind": "counts",
            "source": {"format": "h5ad", "path": "{data}/kang2018/example_sce.h5ad"},
            "columns": {
                "perturbation": {"from": "group_id", "control": "ctrl"},
                "context": "cluster_id",
                "batch": {"from": "sample_id", "extract": r"(\d+)$"},
                "modality": {"value": "cytokine"},
            },
        }
    )
    assert data.shape == (1556, 1267)
    assert "ISG15" in data.var_names
    assert data.obs["context"].value_counts().to_dict() == {
        "CD4 T cells": 400,
        "CD14+ Monocytes": 400,
        "B cells": 298,
        "FCGR3A+ Monocytes": 249,
        "CD8 T cells": 209,
    }
    assert data.obs["batch"].value_counts().to_dict() == {"101": 954, "107": 602}  # donors, in both arms
    assert int(data.obs["is_control"].sum()) == 750
    totals = np.asarray(data.X.sum(axis=1))
    logs = np.log1p(data[:, "ISG15"].X.toarray() / totals * 1e4).ravel()
    control = data.obs["is_control"].to_numpy()
    assert round(float(logs[control].mean()), 4) == 0.3553
    assert round(float(logs[~control].mean()), 4) == 4.8515


def test_zhao2021() -> None:
    data = get(
        {
            "kind": "counts",
            "source": {"format": "h5ad", "path": "{data}/zhao2021/glioblastoma_example_data.h5ad"},
            "columns": {
                "perturbation": {"from": "condition", "control": "ctrl"},
                "context": "patient_id",
                "batch": "patient_id",
                "dose": {"value": 0.2, "unit": "uM"},
                "modality": {"value": "drug"},
            },
        }
    )
    assert data.shape == (5000, 300)
    sizes = data.obs.groupby(["context", "perturbation"], observed=True).size()
    assert len(sizes) == 10 and (sizes == 500).all()
    assert set(data.obs["dose"]) == {"0", "0.2"} and data.uns["trueshift"]["dose_unit"] == "uM"


def test_papalexi2021() -> None:
    said: list[str] = []
    data = get(
        {
            "kind": "counts",
            "source": {"format": "h5ad", "path": "{data}/papalexi2021/lowmoi_example_data.h5ad"},
            "filter": {"grna_top_frac": {"min": 0.5}},
            "columns": {
                "perturbation": {"from": "grna_target_top", "control": "non-targeting"},
                "context": {"value": "THP-1"},
                "batch": "bio_rep",
                "modality": {"value": "KO"},
            },
        },
        said,
    )
    assert said[0].endswith("of 20729 cells") and data.n_obs < 20_729
    assert int(data.obs["is_control"].sum()) == 2304
    assert data.obs["perturbation"].nunique() == 26
    logs = np.log1p(data[:, "STAT1"].X.toarray() / np.asarray(data.X.sum(axis=1)) * 1e4).ravel()
    knocked_out = (data.obs["perturbation"] == "STAT1").to_numpy()
    assert logs[knocked_out].mean() < 0.7 * logs[data.obs["is_control"].to_numpy()].mean()


def test_perturbench_split_by_technique() -> None:
    k562 = get({**PERTURBENCH, "filter": {"cell_type": {"in": ["k562"]}}})
    assert k562.n_obs == 3375 and set(k562.obs["modality"]) == {"CRISPRa"}
    labels = [label for label in k562.obs["perturbation"].cat.categories if label != "control"]
    doubles = [label for label in labels if "+" in label]
    assert len(doubles) == 15 and "KLF1+SET" in doubles and "SET+KLF1" not in doubles
    singles = {label for label in labels if "+" not in label}
    assert sum(set(label.split("+")) <= singles for label in doubles) == 5
    assert set(k562.obs["dose"]) == {"0", "1", "1+1"}

    glioma = get({**PERTURBENCH, "filter": {"cell_type": {"in": ["T98G", "U87MG", "A172"]}}})
    assert glioma.n_obs == 2586 and set(glioma.obs["modality"]) == {"CRISPRi"}
    assert glioma.obs["perturbation"].nunique() == 10
    assert (glioma.obs[glioma.obs["is_control"]].groupby("context", observed=True).size() == 100).all()


def test_perturbench_together_keeps_the_techniques_apart() -> None:
    said: list[str] = []
    data = get(PERTURBENCH, said)
    labels = set(data.obs["perturbation"])
    assert {"MAPK1@CRISPRa", "MAPK1@CRISPRi", "KLF1", "CNN1+MAPK1@CRISPRa"} <= labels and "MAPK1" not in labels
    assert any(line.startswith("9 labels occur under several modalities") for line in said)
