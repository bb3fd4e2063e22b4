"""The readers of each format, through the one way in."""

import gzip
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.io import mmwrite

from trueshift.contract import ContractError, read_h5ad, write_h5ad
from trueshift.data.loading import load
from trueshift.data.local_files import checksum

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


@pytest.mark.parametrize("scratch", [True, False])
def test_h5ad_gzipped(h5ad_file: Path, tmp_path: Path, scratch: bool) -> None:
    packed = gzip.compress(h5ad_file.read_bytes())
    (tmp_path / "packed.h5ad").write_bytes(packed)
    settings = {"kind": "counts", "columns": COLUMNS}
    source = {"format": "h5ad", "path": "{data}/packed.h5ad", "layer": "counts"}
    place = tmp_path / "unpacked" if scratch else None
    check(load("toy", {**settings, "source": source}, tmp_path, lambda _: None, place))
    assert (tmp_path / "unpacked").exists() == scratch
    (tmp_path / "packed.h5ad").write_bytes(packed[:-20])
    with pytest.raises(ContractError, match=r"packed\.h5ad: cannot be unpacked"):
        get(tmp_path, source)


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
    (h5ad_file.parent / "set.txt").write_text("no HDF5")
    with pytest.raises(ContractError, match=r"set\.txt: is no h5ad"):
        get(h5ad_file.parent, {"format": "h5ad", "path": "{data}/set.txt"})
    with pytest.raises(ContractError, match=r": is a folder; name a file"):
        get(h5ad_file.parent, {"format": "h5ad", "path": "{data}"})
    with h5py.File(h5ad_file, "r+") as file:
        file["obs/guide"].attrs["encoding-type"] = "array-of-tomorrow"
    with pytest.raises(ContractError, match=r"set\.h5ad: obs 'guide' is stored as array-of-tomorrow, which anndata 0"):
        get(h5ad_file.parent, source)
    h5ad_file.write_bytes(h5ad_file.read_bytes()[:2000])
    with pytest.raises(ContractError, match=r"set\.h5ad: is shorter than its own table of contents"):
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


LISTS = {
    "Cell Ranger": ("c1\nc2\nc3\nc4\n", "ENSG0\tg1\tGene Expression\nENSG1\tg2\tGene Expression\nENSG2\tg3\tx\n"),
    "write.csv": (
        '"","x"\n"1","c1"\n"2","c2"\n"3","c3"\n"4","c4"\n',
        '"","V1","V2"\n"1","ENSG0","g1"\n"2","ENSG1","g2"\n"3","ENSG2","g3"\n',
    ),
    "write.csv without row names": (
        '"barcode"\n"c1"\n"c2"\n"c3"\n"c4"\n',
        '"id","name"\r\n"ENSG0","g1"\r\n"ENSG1","g2"\r\n"ENSG2","g3"\r\n',
    ),
    "write.table": (
        '"x"\n"1" "c1"\n"2" "c2"\n"3" "c3"\n"4" "c4"\n',
        '"id" "name"\n"1" "ENSG0" "g1"\n"2" "ENSG1" "g2"\n"3" "ENSG2" "g3"\n',
    ),
    "row names that are ids": ("c1,1\nc2,2\nc3,3\nc4,4\n", '"","symbol"\n"ENSG0","g1"\n"ENSG1","g2"\n"ENSG2","g3"\n'),
    "pandas": (",0\n0,c1\n1,c2\n2,c3\n3,c4\n", "id;name\nENSG0;g1\nENSG1;g2\nENSG2;g3\n"),
}


@pytest.mark.parametrize("form", LISTS)
@pytest.mark.parametrize("zipped", [False, True])
def test_mtx_lists_in_the_forms_of_cell_ranger_and_r(mtx_folder: Path, form: str, zipped: bool) -> None:
    said: list[str] = []
    for name, text in zip(("cells.txt", "genes.csv"), LISTS[form], strict=True):
        (mtx_folder / name).write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    data = get(mtx_folder, mtx(barcodes="{data}/cells.txt", genes="{data}/genes.csv"), said)
    genes = 2 if form == "Cell Ranger" else 3  # the third is of another type there
    np.testing.assert_array_equal(data.X.toarray(), COUNTS[:, :genes])
    assert data.obs_names.tolist() == CELLS and data.var_names.tolist() == GENES[:genes]
    assert data.var["gene_id"].tolist() == ["ENSG0", "ENSG1", "ENSG2"][:genes]
    form_of_cells = {"write.csv": "commas, a header line, row numbers", "Cell Ranger": "one name a line"}
    assert f"cells.txt: 4 cells ({form_of_cells.get(form, '')}" in "\n".join(said)
    write_h5ad(data, mtx_folder / "imported.h5ad")
    assert read_h5ad(mtx_folder / "imported.h5ad").obs_names.tolist() == CELLS


@pytest.mark.parametrize(
    "content", [b"", b"g1\tx\ng2\ng3\tx\ty\n", b"\x89HDF\xff\xfe", gzip.compress(b"g1\n" * 999)[:-9]]
)
def test_mtx_lists_in_no_known_form(mtx_folder: Path, content: bytes) -> None:
    (mtx_folder / "genes.tsv").write_bytes(content)
    with pytest.raises(ContractError, match=r"genes\.tsv: ") as error:
        get(mtx_folder, mtx())
    assert "\n" not in str(error.value)


def test_genes_that_share_a_name_are_told_apart_by_id(mtx_folder: Path) -> None:
    (mtx_folder / "genes.tsv").write_text("ENSG0\tg1\nENSG1\tg2\nENSG2\tg1\n")
    assert get(mtx_folder, mtx()).var_names.tolist() == ["g1_ENSG0", "g2", "g1_ENSG2"]
    (mtx_folder / "genes.tsv").write_text("g1\ng2\ng1\n")
    with pytest.warns(UserWarning), pytest.raises(ContractError, match="1 gene ids occur more than once, first g1;"):
        get(mtx_folder, mtx())


def test_metadata_with_a_repeated_cell(mtx_folder: Path) -> None:
    pd.concat([OBS, OBS.iloc[:1]]).to_csv(mtx_folder / "obs.csv")
    with pytest.raises(ContractError, match=r"obs\.csv: cell id c1 occurs twice"):
        get(mtx_folder, mtx())


def test_a_separator_that_is_another_is_named_and_can_be_set(tmp_path: Path) -> None:
    frame = pd.DataFrame(COUNTS, index=pd.Index(CELLS, name="cell"), columns=GENES)
    source = {"format": "table", "expression": "{data}/expression.csv", "metadata": "{data}/obs.csv"}
    for mark, words in ((";", "semicolons"), ("\t", "tabs")):
        frame.to_csv(tmp_path / "expression.csv", sep=mark)
        OBS.to_csv(tmp_path / "obs.csv", sep=mark)
        written = mark.replace("\t", "\\\\t")
        with pytest.raises(
            ContractError, match=rf'expression\.csv: .* {words}, not commas; set separator: "{written}"'
        ):
            get(tmp_path, source)
        check(get(tmp_path, {**source, "separator": mark}))
    OBS.to_csv(tmp_path / "obs.csv", sep=";")
    with pytest.raises(ContractError, match=r"obs\.csv: its separator seems to be semicolons, not tabs"):
        get(tmp_path, {**source, "separator": "\t"})


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
