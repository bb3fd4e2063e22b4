"""The command line of a split that reads more than obs: structures beside the data, folds from files of torch."""

import sys
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from running import ROOT, script
from scipy import sparse

from trueshift.contract import read_table, write_h5ad

sys.path.append(str(ROOT / "tests/library/data"))
import torch_files as made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve profiles of four drugs, and four controls."""
    labels = ["a", "b", "c", "d"] * 3 + ["control"] * 4
    obs = pd.DataFrame({"perturbation": labels, "context": "A549", "batch": "all", "modality": "drug"})
    obs["is_control"] = obs["perturbation"] == "control"
    obs["dose"] = np.where(obs["is_control"], "0", "1")
    obs["idx"] = [str(i) if i < 12 else "" for i in range(16)]
    obs.index = pd.Index([f"p{i}" for i in range(16)])
    structures = pd.DataFrame({"smiles": list("CNOS"), "scaffold": ["r", "r", "q", ""]}, index=list("abcd"))
    uns = {"trueshift": {"schema_version": 1, "dataset": "x", "kind": "profile"}, "structures": structures}
    values = sparse.csr_matrix(np.ones((16, 2), dtype=np.float32))
    write_h5ad(ad.AnnData(values, obs=obs, uns=uns), tmp_path / "normalized.h5ad")
    return tmp_path


def roles(folder: Path, entry: dict[str, Any], fold: str) -> pd.Series:
    done = script("split", folder, data="normalized.h5ad", settings=entry, fold=fold, out="split.csv")
    assert done.returncode == 0, done.stderr
    assert f"fold {fold}" in done.stdout
    return read_table(folder / "split.csv").set_index("cell")["role"]


def test_scaffolds_beside_the_data(data: Path) -> None:
    found = roles(data, {"type": "unseen_scaffold", "folds": {"x": "r"}}, "x")
    assert set(found.index[found == "test"]) == {f"p{i}" for i in range(12) if i % 4 < 2}


def test_folds_of_pdgrapher(data: Path) -> None:
    lists = {"train": [0, 1, 2, 3, 4, 5], "val": [6, 7], "test": [8, 9, 10, 11]}
    content = {1: {f"{role}_index_backward": numbers for role, numbers in lists.items()}}
    made.write(data / "splits.pt", content)
    entry = {"type": "pdgrapher", "files": {"A549": str(data / "splits.pt")}}
    found = roles(data, entry, "1")
    assert {role: [f"p{i}" for i in numbers] for role, numbers in lists.items()} == {
        role: found.index[found == role].tolist() for role in lists
    }
    failed = script("split", data, data="normalized.h5ad", settings=entry, fold="2", out="other.csv")
    assert failed.returncode and "no fold 2" in failed.stderr and not (data / "other.csv").exists()
