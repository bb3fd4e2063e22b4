"""Molecules as graphs: features by hand, neighbours by search, and the same graph for every way to write a molecule."""

import numpy as np
import pytest

Chem = pytest.importorskip("rdkit.Chem")

from trueshift.contract import ContractError  # noqa: E402
from trueshift.models.molecular_graph import (  # noqa: E402
    ATOM_FEATURES,
    BOND_FEATURES,
    ELEMENTS,
    MolecularGraph,
    batch,
    graph_of_molecule,
    graph_of_smiles,
    join,
)

SF6, SALT, ASPIRIN = "FS(F)(F)(F)(F)F", "CC[NH3+].[Cl-]", "CC(=O)Oc1ccccc1C(=O)O"


def places(element: str, degree: int, hydrogens: int, valence: int, aromatic: bool = False) -> list[int]:
    """Which of the 62 features of an atom are 1."""
    at = ELEMENTS.index(element) if element in ELEMENTS else 43
    return [at, 44 + degree, 50 + hydrogens, 55 + valence, *([61] if aromatic else [])]


def test_widths_are_the_published_ones() -> None:
    assert (ATOM_FEATURES, BOND_FEATURES) == (62, 6)
    assert len(set(ELEMENTS)) == 43


def test_features_of_atoms() -> None:
    acid = graph_of_molecule(Chem.MolFromSmiles("CC(=O)O"))
    expected = [places("C", 1, 3, 3), places("C", 3, 0, 0), places("O", 1, 0, 0), places("O", 1, 1, 1)]
    assert [np.flatnonzero(row).tolist() for row in acid.atoms] == expected
    pyridine = graph_of_molecule(Chem.MolFromSmiles("c1ccncc1"))
    assert np.flatnonzero(pyridine.atoms[3]).tolist() == places("N", 2, 0, 0, True)
    assert np.flatnonzero(pyridine.atoms[0]).tolist() == places("C", 2, 1, 1, True)
    strange = graph_of_smiles("[Xe]", "X")
    assert np.flatnonzero(strange.atoms[0]).tolist() == places("Xe", 0, 0, 0)
    sulfur = next(row for row in graph_of_smiles(SF6, "X").atoms if row[ELEMENTS.index("S")])
    assert np.flatnonzero(sulfur).tolist() == places("S", 5, 0, 0)  # six neighbours count as five


def test_features_of_bonds() -> None:
    graph = graph_of_molecule(Chem.MolFromSmiles("C=CC#N"))  # a double, a single and a triple bond, conjugated
    assert [np.flatnonzero(row).tolist() for row in graph.bonds] == [[1, 4], [0, 4], [2, 4]]
    assert graph.ends.tolist() == [[0, 1], [1, 2], [2, 3]]
    assert [np.flatnonzero(row).tolist() for row in graph_of_smiles("C1CC1", "X").bonds] == [[0, 5]] * 3
    assert [np.flatnonzero(row).tolist() for row in graph_of_smiles("c1ccccc1", "X").bonds] == [[3, 4, 5]] * 6


def found(graph: MolecularGraph, atom: int) -> set[tuple[int, int]]:
    """(neighbour, bond) of an atom, by looking at every bond."""
    return {(b, e) for e, (a, b) in enumerate(graph.ends) if a == atom} | {
        (a, e) for e, (a, b) in enumerate(graph.ends) if b == atom
    }


def test_neighbours_by_degree_are_those_of_the_bonds() -> None:
    graphs = [graph_of_smiles(text, "X") for text in (ASPIRIN, SF6, SALT, "O", "C#C")]
    together = batch(graphs)
    assert together.sizes.tolist() == [13, 7, 4, 1, 2]
    assert together.molecule.tolist() == np.repeat(range(5), [13, 7, 4, 1, 2]).tolist()
    assert together.position.tolist() == [i for n in (13, 7, 4, 1, 2) for i in range(n)]
    whole = join(graphs)
    assert np.array_equal(together.atoms, np.concatenate([graph.atoms for graph in graphs]))
    assert np.array_equal(together.bonds, np.concatenate([graph.bonds for graph in graphs]))
    assert [group.degree for group in together.neighbourhoods] == [0, 1, 2, 3, 6]
    seen = []
    for group in together.neighbourhoods:
        for atom, neighbours, bonds in zip(group.atoms, group.neighbours, group.bonds, strict=True):
            assert set(zip(neighbours, bonds, strict=True)) == found(whole, atom)
            assert len(neighbours) == group.degree
            assert (together.molecule[neighbours] == together.molecule[atom]).all()
            seen.append(atom)
    assert sorted(seen) == list(range(27))


def test_molecules_without_any_bond() -> None:
    alone = batch([graph_of_smiles("O", "water"), graph_of_smiles("[Na+].[Cl-]", "salt")])
    assert [group.atoms.tolist() for group in alone.neighbourhoods] == [[0, 1, 2]]
    assert alone.neighbourhoods[0].neighbours.shape == (3, 0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("c1ccccc1O", "OC1=CC=CC=C1"),
        ("CCO", "[CH3][CH2][OH]"),
        ("CCO", "[2H]C([2H])CO"),
        ("CCO", "[CH3:1][13CH2:2]O"),
        ("C[C@H](N)O", "C[C@@H](N)O"),
        (ASPIRIN, "O=C(C)Oc1ccccc1C(O)=O"),
        (SALT, "[Cl-].CC[NH3+]"),
    ],
)
def test_one_molecule_has_one_graph_however_it_is_written(one: str, other: str) -> None:
    first, second = graph_of_smiles(one, "X"), graph_of_smiles(other, "X")
    for name in ("atoms", "bonds", "ends"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


@pytest.mark.parametrize("smiles", ["C1CC", "no drug", "", float("nan"), None])
def test_a_smiles_that_cannot_be_read_is_named(smiles: object, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(ContractError, match="SMILES of dasatinib cannot be read"):
        graph_of_smiles(smiles, "dasatinib")  # type: ignore[arg-type]
    assert not capfd.readouterr().err  # RDKit keeps quiet
