"""GCTX: values by profile and gene, metadata as text and numbers, and what is wrong by name."""

import gzip
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from trueshift.contract import ContractError
from trueshift.data.loading import load
from trueshift.data.sources import gctx

MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3) / 2  # profiles × genes, as the file has them
PROFILES = {
    "id": np.array([b"p1", b"p2", b"p3", b"p4"]),
    "pert_iname": np.array([b"DMSO ", b"DMSO", b"erlotinib", b"erlotinib"]),
    "pert_dose": np.array([-666.0, -666.0, 1.0, 10.0]),
    "cell_id": np.array([b"A375", b"A375", b"A375", b"A375"]),
    "pert_idose": np.array([b"-666", b"-666", b"1 um", b"10 um"]),
}
GENES = {"id": np.array([b"5720", b"466", b"6009"]), "pr_gene_symbol": np.array([b"PSME1", b"ATF1", b"RHEB"])}


def write(path: Path, matrix=MATRIX, profiles=PROFILES, genes=GENES) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["version"] = "GCTX1.0"
        file["/0/DATA/0/matrix"] = matrix
        for group, fields in (("COL", profiles), ("ROW", genes)):
            for name, values in fields.items():
                file[f"/0/META/{group}/{name}"] = values
    return path


def test_values_and_metadata_are_those_of_the_file(tmp_path: Path) -> None:
    said: list[str] = []
    data = gctx.read(write(tmp_path / "a.gctx"), log=said.append)
    np.testing.assert_array_equal(data.X, MATRIX)
    assert data.X.dtype == np.float32 and said == ["4 profiles, 3 of 3 genes"]
    assert data.obs_names.tolist() == ["p1", "p2", "p3", "p4"] and data.var["pr_gene_symbol"].tolist()[1] == "ATF1"
    assert data.obs["pert_iname"].tolist() == ["DMSO", "DMSO", "erlotinib", "erlotinib"]
    assert data.obs["pert_dose"].tolist() == [None, None, 1.0, 10.0]
    assert data.obs["pert_idose"].tolist() == [None, None, "1 um", "10 um"]


def test_some_genes_in_the_order_of_the_file_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gctx, "BLOCK", 3)  # one profile at a time
    pd.DataFrame({"gene": [6009, 5720]}).to_csv(tmp_path / "landmarks.csv", index=False)
    data = gctx.read(write(tmp_path / "a.gctx"), tmp_path / "landmarks.csv", log=lambda _: None)
    np.testing.assert_array_equal(data.X, MATRIX[:, [0, 2]])
    assert data.var_names.tolist() == ["5720", "6009"]
    pd.DataFrame({"gene": [1]}).to_csv(tmp_path / "landmarks.csv", index=False)
    with pytest.raises(ContractError, match="gene '1' is not in"):
        gctx.read(tmp_path / "a.gctx", tmp_path / "landmarks.csv")


def test_becomes_canonical(tmp_path: Path) -> None:
    write(tmp_path / "a.gctx")
    settings = {
        "kind": "profile",
        "source": {"format": "gctx", "path": "{data}/a.gctx"},
        "columns": {
            "perturbation": {"from": "pert_iname", "control": "DMSO", "separator": None},
            "context": "cell_id",
            "dose": {"from": "pert_idose", "unit": "uM"},
            "gene_symbol": "pr_gene_symbol",
        },
    }
    data = load("set", settings, tmp_path, log=lambda _: None)
    assert data.var_names.tolist() == ["PSME1", "ATF1", "RHEB"]
    assert data.obs["dose"].tolist() == ["0", "0", "1", "10"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"matrix": MATRIX[:3]}, r"the matrix is \(3, 3\), but there are 4 profiles and 3 genes"),
        ({"matrix": np.where(MATRIX == 2.5, np.nan, MATRIX)}, "6009 of profile p2 is nan"),
        ({"genes": {**GENES, "id": np.array([b"1", b"1", b"2"])}}, "ROW: id '1' occurs twice"),
        ({"profiles": {**PROFILES, "cell_id": np.array([b"A375"])}}, "COL/cell_id has 1 values, /0/META/COL/id has 4"),
        ({"genes": {"name": np.array([b"x", b"y", b"z"])}}, "no /0/META/ROW/id"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changed: dict, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        gctx.read(write(tmp_path / "a.gctx", **changed))


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.gctx").write_text("a,b\n")
    with pytest.raises(ContractError, match=r"a\.gctx: cannot be read as GCTX"):
        gctx.read(tmp_path / "a.gctx")
    for content in (b"#1.3\n", gzip.compress(b"#1.2\n")):
        (tmp_path / "a.gctx").write_bytes(content)
        with pytest.raises(ContractError, match=r"a\.gctx: .* use format: gct"):
            gctx.read(tmp_path / "a.gctx")
