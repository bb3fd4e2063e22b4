"""The readers of profiles, GCT and the pairs of TranSiGen: small files of known content, every mistake by name."""

import gzip
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trueshift.contract import ContractError, read_h5ad, write_h5ad
from trueshift.data.frames import LINCS_MISSING
from trueshift.data.loading import load
from trueshift.data.sources import gct, transigen

WELLS = ["p:A01", "p:A02", "p:A03"]
PLATE = [
    "#1.3",
    "2\t3\t1\t4",
    "id\tsymbol\t" + "\t".join(WELLS),
    "drug\tna\tDMSO\taspirin\tibuprofen",
    "line\tna\tA375\tA375\tA375",
    "dose\tna\t-666\t0.04 µM\t10 uM",
    "empty\tna\tNA\t\t-666",
    "201_at\tISG15\t1.5\t2\t-3e-1",
    "202_at\tNA\t4\t5\t6",
]
COLUMNS: dict[str, Any] = {
    "perturbation": {"from": "drug", "control": "DMSO"},
    "context": "line",
    "dose": {"from": "dose", "unit": "uM"},
    "modality": {"value": "drug"},
}


def plate(folder: Path, changes: dict[int, str | None] | None = None) -> Path:
    """The plate as a file, some lines (counted from 0) replaced, or left out where None."""
    lines = [(changes or {}).get(i, line) for i, line in enumerate([*PLATE, None])]
    path = folder / "plate.gct"
    path.write_text("\n".join(line for line in lines if line is not None) + "\n", encoding="utf-8")
    return path


def get(folder: Path, source: dict[str, Any], columns: dict[str, Any], **more: Any) -> ad.AnnData:
    return load("toy", {"kind": "profile", "source": source, "columns": columns, **more}, folder, log=lambda _: None)


def get_plate(folder: Path, changes: dict[int, str | None] | None = None, **columns: Any) -> ad.AnnData:
    plate(folder, changes)
    return get(folder, {"format": "gct", "path": "{data}/plate.gct"}, {**COLUMNS, **columns})


# --- GCT ----------------------------------------------------------------------------------------------


def test_gct(tmp_path: Path) -> None:
    data = gct.read(plate(tmp_path))
    assert data.X.dtype == np.float32
    np.testing.assert_array_equal(data.X, np.array([[1.5, 4], [2, 5], [-0.3, 6]], dtype=np.float32))
    assert data.obs_names.tolist() == data.obs["id"].tolist() == WELLS
    assert data.var_names.tolist() == ["201_at", "202_at"]
    assert list(data.obs) == ["id", "drug", "line", "dose", "empty"] and list(data.var) == ["symbol"]
    assert data.obs["empty"].isna().all() and data.obs["dose"].isna().tolist() == [True, False, False]
    assert data.var["symbol"].isna().tolist() == [False, True]


def test_gct_in_canonical_form(tmp_path: Path) -> None:
    data = get_plate(tmp_path, gene_symbol="symbol")
    assert data.obs["perturbation"].tolist() == ["control", "aspirin", "ibuprofen"]
    assert data.obs["dose"].tolist() == ["0", "0.04", "10"] and data.uns["trueshift"]["dose_unit"] == "uM"
    assert data.var_names.tolist() == ["ISG15", "202_at"] and data.var["gene_id"].tolist() == ["201_at", "202_at"]
    write_h5ad(data, tmp_path / "out.h5ad")
    pd.testing.assert_frame_equal(read_h5ad(tmp_path / "out.h5ad").obs, data.obs)


@pytest.mark.parametrize("unit", ["uM", "um", "µM", "μM"])
def test_units_are_taken_off_doses(tmp_path: Path, unit: str) -> None:
    for line in ("dose\tna\t-666\t0.04 um\t10.0uM", "dose\tna\t-666\t0.04 μM\t10", "dose\tna\tNA\t4E-2 µM\t1e1 UM"):
        data = get_plate(tmp_path, {5: line}, dose={"from": "dose", "unit": unit})
        assert data.obs["dose"].tolist() == ["0", "0.04", "10"]


def test_doses_that_are_not_there_or_in_another_unit(tmp_path: Path) -> None:
    lacking = r"'dose' has 1 perturbed cells without a dose, first p:A02 \(aspirin\); leave them out with filter:"
    with pytest.raises(ContractError, match=lacking):
        get_plate(tmp_path, {5: "dose\tna\t0\t-666\t10 uM"})
    for dose in ({"from": "dose", "unit": "uM"}, "dose"):
        data = get_plate(tmp_path, {5: "dose\tna\t-666\t0.04 uM\t10 nM"}, dose=dose)
        assert data.obs["dose"].tolist() == ["0", "0.04", "0.01"]
        assert data.uns["trueshift"]["dose_unit"] == "uM"


def test_minus_666_is_no_dose_in_other_formats_either(tmp_path: Path) -> None:
    wells = pd.DataFrame({"well": WELLS, "drug": ["DMSO", "a", "b"], "line": "x", "dose": [-666, -666, 1]})
    wells.to_csv(tmp_path / "wells.csv", index=False)
    pd.DataFrame({"well": WELLS, "g1": [1.0, 2.0, 3.0]}).to_csv(tmp_path / "x.csv", index=False)
    source = {"format": "table", "expression": "{data}/x.csv", "metadata": "{data}/wells.csv"}
    with pytest.raises(ContractError, match=r"1 perturbed cells without a dose, first p:A02 \(a\)"):
        get(tmp_path, source, COLUMNS)
    data = get(tmp_path, source, COLUMNS, filter={"drug": {"not_in": ["a"]}})
    assert data.obs["dose"].tolist() == ["0", "1"]


def test_gct_gzipped_with_windows_lines_byte_order_mark_and_padding(tmp_path: Path) -> None:
    lines = [line + "\t" * 4 if i < 2 else line for i, line in enumerate(PLATE)]  # spreadsheets fill up short lines
    path = tmp_path / "plate.gct.gz"
    path.write_bytes(gzip.compress(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8-sig")))
    data, plain = gct.read(path), gct.read(plate(tmp_path))
    np.testing.assert_array_equal(data.X, plain.X)
    pd.testing.assert_frame_equal(data.obs, plain.obs)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ContractError, match=r"plate\.gct\.gz: cannot be read"):
        gct.read(path)


def test_gct_of_version_1_2(tmp_path: Path) -> None:
    path = tmp_path / "old.gct"
    path.write_text("#1.2\n1\t2\nName\tDescription\tDMSO_1\taspirin_1\n201_at\tISG15\t1\t2.5\n")
    data = gct.read(path)
    np.testing.assert_array_equal(data.X, [[1], [2.5]])
    assert data.var["Description"].tolist() == ["ISG15"]
    columns = {"perturbation": {"from": "id", "extract": "^(.+)_", "control": "DMSO"}, "context": {"value": "A375"}}
    mapped = get(tmp_path, {"format": "gct", "path": str(path)}, columns)
    assert mapped.obs["perturbation"].tolist() == ["control", "aspirin"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: "#1.1"}, r"plate\.gct: the first line is '#1\.1', must be #1\.2 or #1\.3"),
        ({1: "2\t3"}, r"line 2 is '2 3', must be 4 whole numbers for #1\.3: rows, columns, row metadata"),
        ({1: "2\t3\t1\tfour"}, r"line 2 is '2 3 1 four', must be 4 whole numbers"),
        ({0: "#1.2"}, r"line 2 is '2 3 1 4', must be 2 whole numbers for #1\.2: rows, columns$"),
        ({1: "2\t4\t1\t4"}, r"the header has 5 fields, the sizes in line 2 ask for 6 \(id, 1 of row metadata, 4 prof"),
        ({1: "3\t3\t1\t4"}, r"the file ends within 3 genes; it is cut off, or line 2 announces too much"),
        ({1: "1\t3\t1\t4"}, r"line 9 comes after the 1 genes that line 2 announces"),
        ({4: "line\tna\tA375\tA375"}, r"line 5 \('line'\) has 4 fields, the header has 5"),
        ({8: "202_at\tNA\t4\t5\t6\t7"}, r"line 9 \('202_at'\) has 6 fields, the header has 5"),
        ({2: "id\tsymbol\tp:A01\tp:A02\tp:A01"}, r"profile id 'p:A01' occurs twice"),
        ({8: "201_at\tNA\t4\t5\t6"}, r"gene id '201_at' occurs twice"),
        ({4: "drug\tna\tA375\tA375\tA375"}, r"line 5: column metadata field 'drug' occurs twice"),
        ({7: "201_at\tISG15\t1.5\tlow\t3"}, r"line 8: 'low' of gene 201_at in profile p:A02 is not a number"),
        ({8: "202_at\tNA\t4\t5\tNA"}, r"line 9: 'NA' of gene 202_at in profile p:A03 is not a number"),
        ({8: "202_at\tNA\tinf\t5\t6"}, r"line 9: 'inf' of gene 202_at in profile p:A01 is not a number"),
        (dict.fromkeys(range(9)), r"the file ends within the version"),
    ],
)
def test_gct_mistakes(tmp_path: Path, changes: dict[int, str | None], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        gct.read(plate(tmp_path, changes))


def test_gct_that_is_not_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "plate.gct").write_bytes("\n".join(PLATE).encode("latin-1"))
    with pytest.raises(ContractError, match=r"plate\.gct: not text in UTF-8 .* convert it"):
        gct.read(tmp_path / "plate.gct")
    with pytest.raises(ContractError, match="unknown setting 'layer'"):
        get(tmp_path, {"format": "gct", "path": "{data}/plate.gct", "layer": "x"}, COLUMNS)
    with pytest.raises(ContractError, match=r"absent\.gct: no such file; ask the authors"):
        get(tmp_path, {"format": "gct", "path": "{data}/absent.gct", "obtain": "ask the authors"}, COLUMNS)


NAME = st.text(st.characters(exclude_characters="\t\r\n", exclude_categories=["Cs"]), min_size=1, max_size=6)
FIELD = NAME.map(str.strip).filter(lambda text: text not in LINCS_MISSING) | st.none()


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_what_is_written_as_gct_is_read_back(tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject) -> None:
    def names(least: int, most: int) -> list[str]:
        return draw.draw(st.lists(NAME, min_size=least, max_size=most, unique=True))

    genes, wells, row_fields, column_fields = names(1, 4), names(1, 4), names(0, 2), names(0, 2)
    column_fields = [name for name in column_fields if name != "id"]
    metadata = {n: draw.draw(st.lists(FIELD, min_size=len(wells), max_size=len(wells))) for n in column_fields}
    about = {n: draw.draw(st.lists(FIELD, min_size=len(genes), max_size=len(genes))) for n in row_fields}
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    values = draw.draw(hnp.arrays(np.float32, (len(wells), len(genes)), elements=finite))

    missing = draw.draw(st.sampled_from(sorted(LINCS_MISSING)))
    lines = [["#1.3"], [str(n) for n in (len(genes), len(wells), len(row_fields), len(column_fields))]]
    lines.append(["id", *row_fields, *wells])
    lines += [
        [n, *["na"] * len(row_fields), *(missing if x is None else x for x in metadata[n])] for n in column_fields
    ]
    for i, gene in enumerate(genes):
        known = [missing if about[n][i] is None else str(about[n][i]) for n in row_fields]
        lines.append([gene, *known, *(repr(float(x)) for x in values[:, i])])
    path = tmp_path_factory.mktemp("gct") / "any.gct"
    path.write_bytes("\n".join("\t".join(line) for line in lines).encode())

    data = gct.read(path)
    np.testing.assert_array_equal(data.X, values)
    assert data.obs_names.tolist() == wells and data.var_names.tolist() == genes
    assert {n: data.obs[n].tolist() for n in column_fields} == metadata
    assert {n: data.var[n].tolist() for n in row_fields} == about


# --- TranSiGen ----------------------------------------------------------------------------------------

PAIRS: dict[str, Any] = {
    "x1": np.array([[1, 2], [1, 2], [1, 2], [3, 4]], dtype=np.float32),
    "x2": np.array([[5, 6], [7, 8], [9, 10], [11, 12]], dtype=np.float32),
    "canonical_smiles": ["C[C@H](N)O", "C[C@@H](N)O", "CC[N+]", "CC[N+]"],
    "cid": ["MCF7", "MCF7", "A549", "MCF7"],
    "sig": ["MCF7_0", "MCF7_1", "A549_2", "MCF7_2"],
    "LINCS_index": [4, 3, 2, 1],
}
PAIR_COLUMNS: dict[str, Any] = {
    "perturbation": {"from": "drug", "control": "control", "separator": None},
    "context": "cid",
    "modality": {"value": "drug"},
    "control_id": "control_id",
    "keep": ["smiles", "sig"],
}


def pairs(folder: Path, **changes: Any) -> Path:
    """The pairs as a file, some keys replaced, or left out where None."""
    with h5py.File(folder / "pairs.h5", "w") as file:
        for key, values in {**PAIRS, **changes}.items():
            if values is not None:
                file[key] = np.array(values, dtype="S20") if isinstance(values[0], str) else values
    return folder / "pairs.h5"


def gene_table(folder: Path, content: str = "gene_id,gene_symbol\n11,TP53\n12,KLF1\n") -> Path:
    (folder / "genes.csv").write_text(content)
    return folder / "genes.csv"


def test_transigen(tmp_path: Path) -> None:
    said: list[str] = []
    data = transigen.read(pairs(tmp_path), gene_table(tmp_path), said.append)
    controls = ["MCF7:control1", "A549:control1", "MCF7:control2"]  # equal values, another line: another control
    assert data.obs_names.tolist() == [*PAIRS["sig"], *controls] and data.X.dtype == np.float32
    np.testing.assert_array_equal(data[PAIRS["sig"]].X, PAIRS["x2"])
    partners = data.obs["control_id"].tolist()[:4]
    assert partners == ["MCF7:control1", "MCF7:control1", "A549:control1", "MCF7:control2"]
    np.testing.assert_array_equal(data[partners].X, PAIRS["x1"])
    assert data.obs["cid"].tolist() == [*PAIRS["cid"], "MCF7", "A549", "MCF7"]
    assert data.obs["drug"].tolist()[:5] == ["C[CatH](N)O", "C[CatatH](N)O", "CC[N+]", "CC[N+]", "control"]
    assert data.obs["smiles"].tolist() == [*PAIRS["canonical_smiles"], None, None, None]
    assert data.obs["is_control"].tolist() == [False] * 4 + [True] * 3
    assert data.obs["LINCS_index"].tolist()[:4] == ["4", "3", "2", "1"]
    assert data.var_names.tolist() == ["TP53", "KLF1"] and data.var["gene_id"].tolist() == ["11", "12"]
    assert said[0].startswith("2 SMILES hold '@'") and said[1] == "4 pairs with 3 distinct controls"


def test_transigen_in_canonical_form(tmp_path: Path) -> None:
    source = {"format": "transigen", "path": str(pairs(tmp_path)), "genes": {"path": str(gene_table(tmp_path))}}
    data = get(tmp_path, source, PAIR_COLUMNS)
    control = data.obs["is_control"].to_numpy()
    assert (data.obs.loc[control, "control_id"] == "").all()
    assert set(data.obs.loc[~control, "control_id"]) == set(data.obs_names[control])
    assert set(data.obs["perturbation"]) == {"control", "C[CatH](N)O", "C[CatatH](N)O", "CC[Nplus]"}
    assert len(data.uns["trueshift"]["provenance"]["checksum"].split()) == 2
    write_h5ad(data, tmp_path / "out.h5ad")
    assert read_h5ad(tmp_path / "out.h5ad").obs["control_id"].tolist() == data.obs["control_id"].tolist()


def test_transigen_without_names_of_genes_or_rows_of_lincs(tmp_path: Path) -> None:
    data = transigen.read(pairs(tmp_path, LINCS_index=None), log=lambda _: None)
    assert data.var_names.tolist() == ["G0001", "G0002"] and "LINCS_index" not in data.obs
    named = transigen.read(pairs(tmp_path), gene_table(tmp_path, "name\nA\nB\n"), log=lambda _: None)
    assert named.var_names.tolist() == ["A", "B"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x2": None}, r"pairs\.h5: no x2; There are: LINCS_index, canonical_smiles, cid, sig, x1"),
        ({"x2": PAIRS["x2"][:, :1]}, r"x1 is \(4, 2\), x2 is \(4, 1\); both must be \(pairs, genes\)"),
        ({"cid": ["MCF7", "A549"]}, r"cid has 2 rows, x1 has 4; one a pair is needed"),
        ({"sig": ["a", "b", "c", "a"]}, r"sig 'a' occurs twice"),
        (
            {"x2": np.where(PAIRS["x2"] == 8, np.nan, PAIRS["x2"])},
            r"x2 of MCF7_1, gene G0002, is nan; leave the pair out",
        ),
    ],
)
def test_transigen_mistakes(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        transigen.read(pairs(tmp_path, **changes))


def test_transigen_files_that_do_not_fit(tmp_path: Path) -> None:
    path = pairs(tmp_path)
    with pytest.raises(ContractError, match=r"genes\.csv: 1 genes, but profiles of .*pairs\.h5 have 2"):
        transigen.read(path, gene_table(tmp_path, "gene_symbol\nTP53\n"))
    with pytest.raises(ContractError, match=r"genes\.csv: gene 'TP53' occurs twice"):
        transigen.read(path, gene_table(tmp_path, "gene_symbol\nTP53\nTP53\n"))
    with pytest.raises(ContractError, match="unknown setting 'gene'; did you mean 'genes'"):
        get(tmp_path, {"format": "transigen", "path": str(path), "gene": "x"}, PAIR_COLUMNS)
    path.write_bytes(b"nonsense")
    with pytest.raises(ContractError, match=r"pairs\.h5: cannot be read as HDF5"):
        transigen.read(path)
