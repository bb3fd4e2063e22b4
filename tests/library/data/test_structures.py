"""Structures from SMILES: what is one molecule, what has which scaffold, and every bad SMILES by name."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd
import pytest
from rdkit import Chem
from test_canonical import COLUMNS, VERSIONS, source

from trueshift.contract import ContractError, read_h5ad, write_h5ad
from trueshift.data.canonical.canonicalise import canonicalise
from trueshift.data.features.structures import canonical, make_structures, scaffold
from trueshift.data.features.tables import coverage

ETHANOL, BENZENE = "OCC", "C1=CC=CC=C1"


def screen(smiles: list[Any], folder: Any = ".", said: list[str] | None = None, **settings: Any) -> ad.AnnData:
    """The eight cells of ``source`` (NT, NT, A, A, B, A+B, B+A, NT) with these SMILES."""
    columns = {
        **COLUMNS,
        "dose": {"value": "1"},
        "context": {"value": "x"},
        **settings.pop("columns", {"smiles": "smiles"}),
    }
    obs = settings.pop("obs", {})
    log = (said if said is not None else []).append
    chosen = {"kind": "counts", "columns": columns, **settings}
    return canonicalise(source(smiles=smiles, **obs), "toy", chosen, VERSIONS, folder, log=log)


def same(one: str, other: str) -> bool:
    """Whether two SMILES are one molecule, by InChI: another identity than canonical SMILES."""
    return Chem.MolToInchi(Chem.MolFromSmiles(one)) == Chem.MolToInchi(Chem.MolFromSmiles(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("OCC", "C(O)C"),
        ("C1=CC=CC=C1", "c1ccccc1"),
        ("N[C@@H](C)C(=O)O", "C[C@H](N)C(O)=O"),
        ("CC(=O)Oc1ccccc1C(=O)O", "OC(=O)C1=C(OC(C)=O)C=CC=C1"),
        ("[Na+].[Cl-]", "[Cl-].[Na+]"),
    ],
)
def test_ways_of_writing_one_molecule_are_one(one: str, other: str) -> None:
    assert one != other and same(one, other)
    assert canonical(one) == canonical(other)
    assert same(str(canonical(one)), one)


def test_mirror_images_and_salts_are_not_one() -> None:
    assert canonical("N[C@@H](C)C(=O)O") != canonical("N[C@H](C)C(=O)O")
    assert canonical("CN") != canonical("CN.Cl")


@pytest.mark.parametrize("smiles", ["restricted", "C1CC", "c1ccc1c", "", "C(C)(C)(C)(C)C"])
def test_what_is_no_molecule(smiles: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert canonical(smiles) is None
    assert capfd.readouterr() == ("", ""), "RDKit prints nothing: what is wrong is said by name"


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("CC(C)Cc1ccc(cc1)C(C)C(=O)O", "c1ccccc1"),  # ibuprofen
        ("CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21", "O=C1CN=C(c2ccccc2)c2ccccc2N1"),  # diazepam
        ("Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(n1)-c1cccnc1",  # imatinib
         "O=C(Nc1cccc(Nc2nccc(n2)-c2cccnc2)c1)c1ccc(CN2CCNCC2)cc1"),
    ],
)  # fmt: skip
def test_scaffolds_of_known_drugs(smiles: str, expected: str) -> None:
    assert same(scaffold(smiles), expected)


def test_a_molecule_without_a_ring_has_no_scaffold() -> None:
    assert scaffold("CN(C)C(=N)NC(N)=N") == ""  # metformin


def test_structures_from_a_column(tmp_path: Path) -> None:
    said: list[str] = []
    data = screen([None, None, ETHANOL, "C(O)C", BENZENE, "CCO.c1ccccc1", None, None], said=said)
    expected = pd.DataFrame({"smiles": ["CCO", "c1ccccc1"], "scaffold": ["", "c1ccccc1"]}, index=["A", "B"])
    pd.testing.assert_frame_equal(data.uns["structures"], expected)
    assert "structures: 2 for 2 single perturbations" in said
    write_h5ad(data, tmp_path / "out.h5ad")
    pd.testing.assert_frame_equal(read_h5ad(tmp_path / "out.h5ad").uns["structures"], expected)


def test_an_expression_takes_the_smiles_out_of_a_column() -> None:
    columns = {"smiles": {"from": "smiles", "extract": "^(?:id:)?(.*)$"}}
    data = screen(["id:", "id:", "id:CO", "id:CO", "id:N", "", "", "id:"], columns=columns)
    assert data.uns["structures"]["smiles"].to_dict() == {"A": "CO", "B": "N"}


def test_names_are_those_of_the_perturbations() -> None:
    obs = {"guide": ["NT", "NT", "(+)-x", "(+)-x", "B", "B", "Na+", "NT"], "how": ["a"] * 5 + ["b", "a", "a"]}
    columns = {"perturbation": {"from": "guide", "control": "NT", "separator": None}, "modality": "how"}
    data = screen([None, None, "CO", "CO", "N", "N", "[Na+]", None], obs=obs, columns={**columns, "smiles": "smiles"})
    assert data.uns["structures"]["smiles"].to_dict() == {"(plus)-x": "CO", "B@a": "N", "B@b": "N", "Naplus": "[Na+]"}


def test_bad_and_missing_smiles_are_named_counted_and_left_out_of_structures_alone() -> None:
    said: list[str] = []
    obs = {"guide": ["NT", "A", "B", "B", "C", "D", "E", "E+A"]}
    smiles = [None, "CCO", "C1CC", "C1CC", "-666", float("nan"), "OC(", "CCO"]
    data = screen(smiles, obs=obs, said=said)
    assert data.uns["structures"].index.tolist() == ["A"]
    assert {"A", "B", "C", "D", "E", "A+E", "control"} == set(data.obs["perturbation"])
    assert "structures: 1 for 5 single perturbations" in said
    assert "structures: 2 perturbations have no SMILES: C, D" in said
    assert "structures: 2 SMILES cannot be read: B (C1CC), E (OC()" in said
    row = coverage(data).set_index("features").loc["structures"]
    assert row[["dataset", "n_perturbations", "n_covered", "missing"]].tolist() == ["toy", 5, 1, "B, C, D, E"]


def test_a_readable_smiles_of_a_drug_counts_beside_a_bad_one() -> None:
    said: list[str] = []
    data = screen([None, None, "CCO", "C1CC", "N", None, None, None], said=said)
    assert data.uns["structures"]["smiles"].to_dict() == {"A": "CCO", "B": "N"}
    assert "structures: 1 SMILES cannot be read: A (C1CC)" in said


def test_long_lists_are_cut() -> None:
    said: list[str] = []
    names = [f"d{i:02}" for i in range(40)]
    make_structures({"d00": {"CC"}}, names, "toy", said.append)
    assert said[1].startswith("structures: 39 perturbations have no SMILES: d01, d02")
    assert said[1].endswith("d12 and 27 more")


def test_what_a_combination_says_is_not_read() -> None:
    said: list[str] = []
    obs = {"guide": ["NT", "NT", "A", "A", "A", "A+B", "A+B", "NT"]}
    data = screen([None, None, "CO", "CO", "CO", "N", "N", None], obs=obs, said=said)
    assert data.uns["structures"].index.tolist() == ["A"]
    assert "structures: 1 perturbations have no SMILES: B" in said


def test_two_molecules_for_one_perturbation() -> None:
    with pytest.raises(ContractError, match=r"toy: A has 2 different structures, OCC \(CCO\) and N \(N\); give each"):
        screen([None, None, "OCC", "N", "C", None, None, None])
    with pytest.raises(ContractError, match="A has 2 different structures"):  # mirror images
        screen([None, None, "N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O", "C", None, None, None])


def test_nothing_that_can_be_read() -> None:
    with pytest.raises(ContractError, match=r"no perturbation has a SMILES that can be read \(A \(C1CC\)\)"):
        screen([None, None, "C1CC", "C1CC", None, None, None, None])
    with pytest.raises(
        ContractError, match=r"columns: smiles: the source has no column 'smile'; did you mean 'smiles'"
    ):
        screen(["C"] * 8, columns={"smiles": "smile"})


def test_structures_from_a_table(tmp_path: Path) -> None:
    rows = [("A", "OCC"), ("A", "CCO"), ("(+)-x", "N"), ("Z", "C"), ("B", None)]
    pd.DataFrame(rows, columns=["perturbation", "smiles"]).to_csv(tmp_path / "s.csv", index=False)
    pd.DataFrame(rows, columns=["perturbation", "smiles"]).to_parquet(tmp_path / "s.parquet")
    obs = {"guide": ["NT", "A", "A", "B", "B", "(+)-x", "A", "A"], "how": ["a"] * 7 + ["b"]}
    columns = {"perturbation": {"from": "guide", "control": "NT", "separator": None}, "modality": "how"}
    for ending in ("csv", "parquet"):
        said: list[str] = []
        settings = {"columns": columns, "structures": f"{{data}}/s.{ending}", "obs": obs}
        data = screen([None] * 8, tmp_path, said, **settings)
        assert data.uns["structures"]["smiles"].to_dict() == {"(plus)-x": "N", "A@a": "CCO", "A@b": "CCO"}
        assert "structures: 1 perturbations have no SMILES: B" in said


def test_a_table_adds_to_a_column_and_may_not_contradict_it(tmp_path: Path) -> None:
    pd.DataFrame({"perturbation": ["B"], "smiles": ["N"]}).to_csv(tmp_path / "s.csv", index=False)
    settings = {"structures": {"path": "{data}/s.csv"}}
    data = screen([None, None, "CO", None, None, None, None, None], tmp_path, **settings)
    assert data.uns["structures"]["smiles"].to_dict() == {"A": "CO", "B": "N"}
    with pytest.raises(ContractError, match="B has 2 different structures"):
        screen([None, None, "CO", None, "O", None, None, None], tmp_path, **settings)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"drug": ["A"], "smiles": ["N"]}, r"s\.csv: the source has no column 'perturbation'; There are: drug, smiles"),
        ({"perturbation": ["a"], "smiles": ["N"]}, r"s\.csv: no perturbation has a SMILES; rows are such as a, .* A"),
        ({"perturbation": ["A"], "smiles": [None]}, r"s\.csv: no perturbation has a SMILES; there are no rows"),
        ({"perturbation": ["A", "A"], "smiles": ["C", "N"]}, "A has 2 different structures"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, table: dict[str, list[Any]], message: str) -> None:
    pd.DataFrame(table).to_csv(tmp_path / "s.csv", index=False)
    with pytest.raises(ContractError, match=message):
        screen([None] * 8, tmp_path, columns={}, structures="{data}/s.csv")


def test_data_without_structures_do_not_import_rdkit() -> None:
    assert "structures" not in screen([None] * 8, columns={}).uns
    code = "import sys, trueshift.data.sources; sys.exit('rdkit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
