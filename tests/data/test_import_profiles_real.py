"""Published L1000 profiles through the import stage. TRUESHIFT_DATA names the folder with their files."""

import os
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from trueshift.contract import check_canonical
from trueshift.data.loading import load

FOLDER = os.environ.get("TRUESHIFT_DATA")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="TRUESHIFT_DATA is not set")

PLATE: dict[str, Any] = {
    "kind": "profile",
    "source": {"format": "gct", "path": "{data}/l1000_a375_plate/test_l1000.gct"},
    "columns": {
        "perturbation": {"from": "pert_iname", "control": "DMSO", "separator": None},
        "context": "cell_id",
        "batch": "rna_plate",
        "dose": {"from": "pert_dose", "unit": "uM"},
        "modality": {"value": "drug"},
        "gene_symbol": "pr_gene_symbol",
        "keep": ["pert_type"],
    },
}
PAIRS: dict[str, Any] = {
    "kind": "profile",
    "source": {
        "format": "transigen",
        "path": "{data}/l1000_transigen/processed_data.h5",
        "genes": "{data}/l1000_transigen/landmark_geneinfo.csv",
    },
    "columns": {
        "perturbation": {"from": "drug", "control": "control", "separator": None},
        "context": "cid",
        "modality": {"value": "drug"},
        "control_id": "control_id",
        "keep": ["smiles", "sig"],
    },
}


def get(settings: dict[str, Any]) -> ad.AnnData:
    data = load("set", settings, Path(str(FOLDER)), log=lambda _: None)
    check_canonical(data, "set")
    return data


@pytest.fixture(scope="module")
def plate() -> ad.AnnData:
    return get(PLATE)


@pytest.fixture(scope="module")
def pairs() -> ad.AnnData:
    return get(PAIRS)


def test_l1000_plate(plate: ad.AnnData) -> None:
    assert plate.shape == (377, 978)
    assert int(plate.obs["is_control"].sum()) == 26
    assert plate.obs["perturbation"].nunique() == 60 and set(plate.obs["context"]) == {"A375"}
    assert set(plate.obs["dose"]) == {"0", "0.04", "0.12", "0.37", "1.11", "3.33", "10"}
    treated = plate.obs[~plate.obs["is_control"]]
    assert not treated.duplicated(["perturbation", "dose"]).any() and len(treated) == 351
    assert int((treated["pert_type"] == "trt_poscon").sum()) == 23
    assert plate.uns["trueshift"]["dose_unit"] == "uM"
    well = plate["LJP005_A375_24H_X1_B19:A03", ["PSME1", "CISD1"]].X.toarray().ravel()
    assert well.tolist() == np.float32([11.3819, 10.4450]).tolist()


def test_l1000_plate_by_doses_with_their_unit(plate: ad.AnnData) -> None:
    columns = {**PLATE["columns"], "dose": {"from": "pert_idose", "unit": "uM"}}  # "10.0 um"
    pd.testing.assert_frame_equal(get({**PLATE, "columns": columns}).obs, plate.obs)


def test_transigen_pairs(pairs: ad.AnnData) -> None:
    control = pairs.obs["is_control"].to_numpy()
    assert pairs.shape == (186, 978) and int(control.sum()) == 86
    assert pairs.obs["context"].nunique() == 43
    assert pairs.obs.loc[~control, "smiles"].nunique() == 14 and pairs.obs["perturbation"].nunique() == 15
    assert int((pairs.obs[~control].groupby("context", observed=True).size() == 1).sum()) == 32
    assert len(np.unique(pairs[control].X.toarray(), axis=0)) == 86


def test_transigen_controls_are_those_of_the_file(pairs: ad.AnnData) -> None:
    treated = ~pairs.obs["is_control"].to_numpy()
    partner = pairs[pairs.obs.loc[treated, "control_id"].tolist()]
    with h5py.File(Path(str(FOLDER)) / "l1000_transigen/processed_data.h5") as file:
        np.testing.assert_array_equal(partner.X.toarray(), file["x1"][:])
        np.testing.assert_array_equal(pairs[treated].X.toarray(), file["x2"][:])
    assert partner.obs["is_control"].all()
    assert partner.obs["context"].tolist() == pairs.obs.loc[treated, "context"].tolist()


def test_gene_names_of_the_pairs_fit_their_values(plate: ad.AnnData, pairs: ad.AnnData) -> None:
    shared = pairs.var_names.intersection(plate.var_names)
    a, b = (np.asarray(data[:, shared].X.mean(axis=0)).ravel() for data in (pairs, plate))
    assert len(shared) > 900 and np.corrcoef(a, b)[0, 1] > 0.8  # in another order of genes it is about 0
