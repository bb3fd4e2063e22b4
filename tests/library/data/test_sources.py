"""The readers of each format, through the one way in."""

import gzip
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.io import mmwrite

from trueshift.contract import ContractError, read_h5ad, write_h5ad
from trueshift.data.download import checksum
from trueshift.data.loading import load

COLUMNS = {"perturbation": {"from": "guide", "control": "NT"}, "context": "line"}
COUNTS = np.array([[1, 0, 2], [0, 3, 4], [5, 6, 0], [7, 0, 8]], dtype=np.float32)
CELLS = ["c1", "c2", "c3", "c4"]
GENES = ["g1", "g2", "g3"]
OBS = pd.DataFrame({"guide": ["NT", "NT", "A", "B"], "line": ["x"] * 4}, index=pd.Index(CELLS, name="cell"))


def get(folder: Path, source: dict[str, Any], log: list[str] | None = None, **settings: Any) -> ad.AnnData:
    full = {"kind": "counts", "columns": COLUMNS, "source": source, **settings}
    return load("toy", full, folder, log=(log if log is not None else []).append)


def check(data: ad.AnnData) -> None:
    assert isinstance(data.X, sparse.csr_matrix) and data.X.dtype == np.float32
    np.testing.assert_array_equal(data.X.toarray(), COUNTS)
    assert data.obs_names.tolist() == CELLS and data.var_names.tolist() == GENES
    assert data.obs["perturbation"].tolist() == ["control", "control", "A", "B"]


@pytest.fixture
def h5ad_file(tmp_path: Path) -> Path:
    var = pd.DataFrame(index=GENES)
    layers = {"counts": sparse.csc_matrix(COUNTS), "logs": np.log1p(COUNTS)}
    data = ad.AnnData(np.log1p(COUNTS) * 2, obs=OBS, var=var, layers=layers)
    data.raw = ad.AnnData(sparse.csr_matrix(COUNTS), obs=OBS, var=var)
    data.write_h5ad(tmp_path / "set.h5ad")
    return tmp_path / "set.h5ad"


@pytest.mark.parametrize("layer", ["counts", "raw"])
def test_h5ad(h5ad_file: Path, layer: str) -> None:
    data = get(h5ad_file.parent, {"format": "h5ad", "path": "{data}/set.h5ad", "layer": layer})
    check(data)
    provenance = data.uns["trueshift"]["provenance"]
    assert provenance["source"] == "{data}/set.h5ad"  # no path of this machine
    assert provenance["checksum"] == checksum(h5ad_file)
    assert {"trueshift", "anndata", "numpy", "pandas", "scipy"} < set(provenance)


def test_h5ad_x_is_the_default(h5ad_file: Path) -> None:
    data = get(h5ad_file.parent, {"format": "h5ad", "path": str(h5ad_file)}, kind="lognorm")
    np.testing.assert_array_equal(data.X.toarray(), np.log1p(COUNTS) * 2)


def test_h5ad_mistakes(h5ad_file: Path) -> None:
    source = {"format": "h5ad", "path": str(h5ad_file)}
    with pytest.raises(ContractError, match="no layer 'count'; did you mean 'counts'"):
        get(h5ad_file.parent, {**source, "layer": "count"})
    with pytest.raises(ContractError, match="kind is counts but values are not whole"):
        get(h5ad_file.parent, source)
    with pytest.raises(ContractError, match="unknown setting 'layr'"):
        get(h5ad_file.parent, {**source, "layr": "counts"})
    with pytest.raises(ContractError, match=r"absent\.h5ad: no such file"):
        get(h5ad_file.parent, {"format": "h5ad", "path": "{data}/absent.h5ad"})
    h5ad_file.write_bytes(h5ad_file.read_bytes()[:2000])
    with pytest.raises(ContractError, match=r"set\.h5ad: cannot be read"):
        get(h5ad_file.parent, source)


def test_survives_writing_and_reading(h5ad_file: Path, tmp_path: Path) -> None:
    features = {"f": str(tmp_path / "f.csv")}
    pd.DataFrame({"name": ["A", "B"], "x": [1.0, 2.0]}).to_csv(tmp_path / "f.csv", index=False)
    data = get(tmp_path, {"format": "h5ad", "path": str(h5ad_file), "layer": "counts"}, features=features)
    write_h5ad(data, tmp_path / "out.h5ad")
    again = read_h5ad(tmp_path / "out.h5ad")
    check(again)
    pd.testing.assert_frame_equal(again.obs, data.obs)
    assert again.uns["trueshift"] == data.uns["trueshift"]
    pd.testing.assert_frame_equal(
        again.uns["perturbation_features"]["f"], data.uns["perturbation_features"]["f"], check_index_type=False
    )


@pytest.fixture
def mtx_folder(tmp_path: Path) -> Path:
    with gzip.open(tmp_path / "matrix.mtx.gz", "wb") as stream:
        mmwrite(stream, sparse.coo_matrix(COUNTS.T.astype(int)))
    mmwrite(tmp_path / "cells_by_genes.mtx", sparse.coo_matrix(COUNTS.astype(int)))
    with gzip.open(tmp_path / "barcodes.tsv.gz", "wt") as stream:
        stream.write("\n".join(CELLS) + "\n")
    (tmp_path / "genes.tsv").write_text("".join(f"ENSG{i}\tg{i + 1}\tGene Expression\n" for i in range(3)))
    OBS.iloc[::-1].to_csv(tmp_path / "obs.csv")
    return tmp_path


def mtx(**more: Any) -> dict[str, Any]:
    names = {"matrix": "matrix.mtx.gz", "barcodes": "barcodes.tsv.gz", "genes": "genes.tsv", "metadata": "obs.csv"}
    return {"format": "mtx", **{key: f"{{data}}/{name}" for key, name in names.items()}, **more}


def test_mtx(mtx_folder: Path) -> None:
    data = get(mtx_folder, mtx())
    check(data)
    assert data.var["gene_id"].tolist() == ["ENSG0", "ENSG1", "ENSG2"]
    assert len(data.uns["trueshift"]["provenance"]["checksum"].split()) == 4
    check(get(mtx_folder, mtx(matrix="{data}/cells_by_genes.mtx", cell_column="cell")))
    by_id = get(mtx_folder, mtx(gene_column=0))
    assert by_id.var_names.tolist() == ["ENSG0", "ENSG1", "ENSG2"]


def test_mtx_cells_without_metadata_are_left_out_and_said(mtx_folder: Path) -> None:
    said: list[str] = []
    OBS.iloc[1:].to_csv(mtx_folder / "obs.csv")
    data = get(mtx_folder, mtx(), said)
    assert data.obs_names.tolist() == CELLS[1:]
    np.testing.assert_array_equal(data.X.toarray(), COUNTS[1:])
    assert any("1 of 4 cells have no row in obs.csv" in line for line in said)


def test_mtx_mistakes(mtx_folder: Path) -> None:
    with pytest.raises(ContractError, match="no column 5; gene_column counts from 0 and there are 3"):
        get(mtx_folder, mtx(gene_column=5))
    with pytest.raises(ContractError, match="no column 'cells'; did you mean 'cell'"):
        get(mtx_folder, mtx(cell_column="cells"))
    OBS.assign(number=range(4)).to_csv(mtx_folder / "obs.csv")
    with pytest.raises(ContractError, match=r"no cell id is among .* \(there c1, here 0\)"):
        get(mtx_folder, mtx(cell_column="number"))
    with pytest.raises(ContractError, match="unknown setting 'gene_colum'; did you mean 'gene_column'"):
        get(mtx_folder, mtx(gene_colum=1))
    source = mtx()
    del source["genes"]
    with pytest.raises(ContractError, match="genes not given; this format needs matrix, barcodes, genes, metadata"):
        get(mtx_folder, source)
    (mtx_folder / "genes.tsv").write_text("g1\ng2\n")
    with pytest.raises(ContractError, match=r"3 × 4, but there are 4 barcodes .* and 2 genes"):
        get(mtx_folder, mtx())
    (mtx_folder / "matrix.mtx.gz").write_bytes(b"nonsense")
    with pytest.raises(ContractError, match=r"matrix\.mtx\.gz: cannot be read as MatrixMarket"):
        get(mtx_folder, mtx())


def test_metadata_with_a_repeated_cell(mtx_folder: Path) -> None:
    pd.concat([OBS, OBS.iloc[:1]]).to_csv(mtx_folder / "obs.csv")
    with pytest.raises(ContractError, match=r"obs\.csv: cell id c1 occurs twice"):
        get(mtx_folder, mtx())


@pytest.mark.parametrize("ending", ["csv", "tsv", "tsv.gz", "parquet"])
@pytest.mark.parametrize("transpose", [False, True])
def test_table(tmp_path: Path, ending: str, transpose: bool) -> None:
    frame = pd.DataFrame(COUNTS, index=pd.Index(CELLS, name="cell"), columns=GENES)
    frame = frame.T if transpose else frame
    for name, table in (("expression", frame), ("obs", OBS)):
        path = tmp_path / f"{name}.{ending}"
        if ending == "parquet":
            table.to_parquet(path)
        else:
            table.to_csv(path, sep="," if ending == "csv" else "\t")
    files = {name: f"{{data}}/{name}.{ending}" for name in ("expression", "obs")}
    source = {"format": "table", "expression": files["expression"], "metadata": files["obs"], "transpose": transpose}
    check(get(tmp_path, source))


def test_table_with_text_among_the_values(tmp_path: Path) -> None:
    frame = pd.DataFrame(COUNTS, index=CELLS, columns=GENES).astype({"g2": object})
    frame.iloc[0, 1] = "low"
    frame.to_csv(tmp_path / "expression.csv")
    OBS.to_csv(tmp_path / "obs.csv")
    source = {"format": "table", "expression": "{data}/expression.csv", "metadata": "{data}/obs.csv"}
    with pytest.raises(ContractError, match=r"expression\.csv: column 'g2' is not numeric \(such as 'low'\)"):
        get(tmp_path, source)
    (tmp_path / "expression.csv").write_text("")
    with pytest.raises(ContractError, match=r"expression\.csv: cannot be read as a table"):
        get(tmp_path, source)


def test_simulated(tmp_path: Path) -> None:
    parameters = {"genes": 30, "perturbations": 3, "combinations": 1, "cells_per_condition": 4, "seed": 5}
    source = {"format": "simulate", **parameters}
    settings = {"kind": "counts", "source": source, "features": {"programs": "simulated"}, "targets_measured": True}
    data = load("demo", settings, tmp_path, log=lambda _: None)
    again = load("demo", settings, tmp_path, log=lambda _: None)
    assert data.uns["trueshift"]["provenance"] == again.uns["trueshift"]["provenance"]
    assert data.uns["perturbation_features"]["programs"].shape == (3, 5)
    write_h5ad(data, tmp_path / "demo.h5ad")
    true = read_h5ad(tmp_path / "demo.h5ad").uns["simulation"]
    np.testing.assert_array_equal(true["log_fold_change"], data.uns["simulation"]["log_fold_change"])
    assert len(true["conditions"]) == len(true["log_fold_change"]) == 12
    with pytest.raises(ContractError, match="unknown setting 'gene'; did you mean 'genes'"):
        load("demo", {**settings, "source": {"format": "simulate", "gene": 3}}, tmp_path)


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="format is h5; did you mean 'h5ad'"):
        get(tmp_path, {"format": "h5"})
    with pytest.raises(ContractError, match="format is None"):
        get(tmp_path, {})
