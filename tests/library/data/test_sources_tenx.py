"""Cell Ranger's folders and HDF5 files, through the one way in."""

from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from tenx_files import write_folder, write_h5

from trueshift.contract import ContractError, read_h5ad, write_h5ad
from trueshift.data.loading import load
from trueshift.data.local_files import checksum

COUNTS = np.array([[1, 0, 2, 9], [0, 3, 4, 9], [5, 6, 0, 9], [7, 0, 8, 0]], dtype=np.float32)
CELLS = ["c1-1", "c2-1", "c3-2", "c4-2"]
FEATURES = [
    ("ENSG0", "KLF1", "Gene Expression"),
    ("ENSG1", "TBCE", "Gene Expression"),
    ("ENSG2", "TBCE", "Gene Expression"),
    ("guide", "KLF1", "CRISPR Guide Capture"),
]
NAMES = ["KLF1", "TBCE_ENSG1", "TBCE_ENSG2"]
COLUMNS = {"perturbation": {"from": "guide", "control": "NT"}, "context": {"value": "K562"}}
WRITERS = {"folder": write_folder, "file.h5": write_h5}


def get(folder: Path, source: dict[str, Any], columns: Any = None, log: list[str] | None = None) -> ad.AnnData:
    settings = {"kind": "counts", "columns": columns or COLUMNS, "source": {"format": "tenx", **source}}
    return load("toy", settings, folder, log=(log if log is not None else []).append)


@pytest.fixture
def metadata(tmp_path: Path) -> str:
    table = pd.DataFrame({"barcode": CELLS[::-1], "guide": ["B", "A", "NT", "NT"]})
    table.to_csv(tmp_path / "cells.csv", index=False, sep=";")
    return "{data}/cells.csv"


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("version", [2, 3])
def test_folders_and_files_of_both_versions(tmp_path: Path, metadata: str, name: str, version: int) -> None:
    number, said = version + 1, list[str]()
    features = [line[:version] for line in FEATURES[:number]]
    WRITERS[name](tmp_path / name, COUNTS[:, :number], CELLS, features, version)
    data = get(tmp_path, {"path": f"{{data}}/{name}", "metadata": metadata, "separator": ";"}, log=said)
    np.testing.assert_array_equal(data.X.toarray(), COUNTS[:, :3])
    assert data.obs_names.tolist() == CELLS and data.var_names.tolist() == NAMES
    assert data.var["gene_id"].tolist() == ["ENSG0", "ENSG1", "ENSG2"]
    assert data.obs["perturbation"].tolist() == ["control", "control", "A", "B"]
    assert any("1 CRISPR Guide Capture" in line for line in said) == (version == 3)
    write_h5ad(data, tmp_path / "imported.h5ad")
    assert read_h5ad(tmp_path / "imported.h5ad").var_names.tolist() == NAMES


def test_without_metadata_there_are_the_barcodes(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", COUNTS, CELLS, FEATURES)
    columns = {**COLUMNS, "perturbation": {"from": "barcode", "extract": r"-(\d)$", "control": 1}}
    assert get(tmp_path, {"path": "{data}/folder"}, columns).obs["perturbation"].tolist() == ["control"] * 2 + ["2"] * 2
    with pytest.raises(ContractError, match="no column 'guide'; There are: barcode"):
        get(tmp_path, {"path": "{data}/folder"})


def test_the_checksum_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", COUNTS, CELLS, FEATURES)
    columns = {**COLUMNS, "perturbation": {"from": "barcode", "extract": r"-(\d)$", "control": 1}}
    found = checksum(folder)
    data = get(tmp_path, {"path": "{data}/folder", "sha256": found.split(":")[1]}, columns)
    assert data.uns["trueshift"]["provenance"]["checksum"] == found != checksum(folder / "matrix.mtx.gz")
    (folder / ".hidden").touch()
    assert checksum(folder) == found
    (folder / "barcodes.tsv.gz").rename(folder / "other.tsv.gz")
    assert checksum(folder) != found
    with pytest.raises(ContractError, match=r"folder: checksum is .*, declared is"):
        get(tmp_path, {"path": "{data}/folder", "sha256": found.split(":")[1]}, columns)


def test_mistakes_are_one_line(tmp_path: Path, metadata: str) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(ContractError, match=message) as error:
            get(tmp_path, {"path": str(path)})
        assert "\n" not in str(error.value) and str(path) in str(error.value)

    folder = write_folder(tmp_path / "folder", COUNTS, CELLS, FEATURES)
    (folder / "features.tsv").touch()
    refused(folder, r"several of features\.tsv and genes\.tsv")
    (folder / "features.tsv").unlink()
    (folder / "matrix.mtx.gz").rename(folder / "GSM1_matrix.mtx.gz")
    refused(folder, r"none of matrix\.mtx, .*use format: mtx")
    refused(tmp_path / "cells.csv", "cannot be read as HDF5")
    ad.AnnData(COUNTS).write_h5ad(tmp_path / "set.h5ad")
    refused(tmp_path / "set.h5ad", "use format: h5ad")
    path = write_h5(tmp_path / "two.h5", COUNTS, CELLS, FEATURES, 2)
    with h5py.File(path, "r+") as file:
        file.copy("GRCh38", "mm10")
    refused(path, r"several genomes \(GRCh38, mm10\)")
    with h5py.File(path, "w") as file:
        file["values"] = [1]
    refused(path, "no Cell Ranger matrix in this file; it holds: values")
    path = write_h5(tmp_path / "damaged.h5", COUNTS, CELLS, FEATURES)
    with h5py.File(path, "r+") as file:
        file["matrix/indices"][0] = 77
    refused(path, "cannot be read as Cell Ranger's HDF5")
    with h5py.File(path, "r+") as file:
        del file["matrix/features/name"]
    refused(path, "cannot be read as Cell Ranger's HDF5")
