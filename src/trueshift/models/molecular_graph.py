"""Molecules as graphs: SMILES to features of atoms and bonds, and lists of neighbours by degree.

Features are those of Duvenaud et al. 2015, "Convolutional networks on graphs for learning molecular fingerprints",
NeurIPS 28, section 4: of an atom its element, degree, number of hydrogens, implicit valence and aromaticity (62), of a
bond its type, conjugation and whether it is in a ring (6). Hydrogens are no atoms of the graph. Stereochemistry,
isotopes and charges are no features, so stereoisomers are one molecule.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem
from rdkit.rdBase import BlockLogs

from trueshift.contract import ContractError

ELEMENTS = (
    *("H", "Li", "B", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "K", "Ca", "Ti", "V", "Cr", "Mn"),
    *("Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Sr", "Zr", "Ru", "Pd", "Ag", "Sn", "Sb", "I"),
    *("Gd", "Pt", "Au", "Hg", "Bi"),
)
BOND_TYPES = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE, Chem.BondType.AROMATIC)
MAX_DEGREE, MAX_HYDROGENS, MAX_VALENCE = 5, 4, 5
ATOM_FEATURES = len(ELEMENTS) + 1 + (MAX_DEGREE + 1) + (MAX_HYDROGENS + 1) + (MAX_VALENCE + 1) + 1
BOND_FEATURES = len(BOND_TYPES) + 2


@dataclass(frozen=True)
class MolecularGraph:
    """A molecule of A atoms and E bonds: features ``atoms`` (A, 62) and ``bonds`` (E, 6), float32, values 0 and 1.

    ``ends`` (E, 2) holds the two atoms of each bond.
    """

    atoms: np.ndarray
    bonds: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True)
class Neighbourhood:
    """The n ``atoms`` (n,) that have d neighbours, these ``neighbours`` (n, d) and the ``bonds`` to them (n, d)."""

    atoms: np.ndarray
    neighbours: np.ndarray
    bonds: np.ndarray

    @property
    def degree(self) -> int:
        """d."""
        return self.neighbours.shape[1]


@dataclass(frozen=True)
class GraphBatch:
    """D molecules as one graph of N atoms and M bonds, those of a molecule adjacent.

    ``atoms`` (N, 62) and ``bonds`` (M, 6) are features, ``neighbourhoods`` ascend in degree and hold every atom once;
    ``molecule`` (N,) and ``position`` (N,) say of which molecule an atom is and the how manyth there; ``sizes`` (D,).
    """

    atoms: np.ndarray
    bonds: np.ndarray
    neighbourhoods: tuple[Neighbourhood, ...]
    molecule: np.ndarray
    position: np.ndarray
    sizes: np.ndarray


def graph_of_smiles(smiles: str, name: str) -> MolecularGraph:
    """The graph of a molecule, the same whichever way its SMILES is written.

    Parts that are not bonded to one another, such as the ions of a salt, are one graph. Raises :class:`ContractError`
    with ``name`` for a SMILES that RDKit cannot read or that holds no atom.
    """
    with BlockLogs():
        molecule = Chem.MolFromSmiles(smiles) if isinstance(smiles, str) else None
        if molecule is None or not molecule.GetNumAtoms():
            raise ContractError(
                f"structures: the SMILES of {name} cannot be read ({smiles}); correct it, or leave the drug out"
            )
        for atom in molecule.GetAtoms():
            atom.SetIsotope(0)
            atom.SetAtomMapNum(0)
        # what RDKit calls implicit depends on the brackets in a SMILES; its own SMILES has them where they must be
        written = Chem.MolToSmiles(Chem.RemoveHs(molecule), isomericSmiles=False)
        return graph_of_molecule(Chem.MolFromSmiles(written))


def graph_of_molecule(molecule: Chem.Mol) -> MolecularGraph:
    """The graph of an RDKit molecule, its atoms in the order they have there."""
    atoms = np.array([_atom_features(atom) for atom in molecule.GetAtoms()], np.float32).reshape(-1, ATOM_FEATURES)
    bonds = np.array([_bond_features(bond) for bond in molecule.GetBonds()], np.float32).reshape(-1, BOND_FEATURES)
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    return MolecularGraph(atoms, bonds, np.array(ends, np.int64).reshape(-1, 2))


def _atom_features(atom: Chem.Atom) -> list[bool]:
    element = ELEMENTS.index(atom.GetSymbol()) if atom.GetSymbol() in ELEMENTS else len(ELEMENTS)
    return [
        *_one_hot(element, len(ELEMENTS)),
        *_one_hot(atom.GetDegree(), MAX_DEGREE),
        *_one_hot(atom.GetTotalNumHs(), MAX_HYDROGENS),
        *_one_hot(atom.GetValence(Chem.ValenceType.IMPLICIT), MAX_VALENCE),
        atom.GetIsAromatic(),
    ]


def _bond_features(bond: Chem.Bond) -> list[bool]:
    return [*(bond.GetBondType() == kind for kind in BOND_TYPES), bond.GetIsConjugated(), bond.IsInRing()]


def _one_hot(value: int, largest: int) -> list[bool]:
    """``largest`` + 1 places; what is larger counts as the largest."""
    return [min(value, largest) == i for i in range(largest + 1)]


def join(graphs: Sequence[MolecularGraph]) -> MolecularGraph:
    """Several molecules as one graph without bonds between them."""
    starts = np.cumsum([0, *(len(graph.atoms) for graph in graphs)])[:-1]
    return MolecularGraph(
        np.concatenate([graph.atoms for graph in graphs]),
        np.concatenate([graph.bonds for graph in graphs]),
        np.concatenate([graph.ends + start for graph, start in zip(graphs, starts, strict=True)]),
    )


def batch(graphs: Sequence[MolecularGraph]) -> GraphBatch:
    """Molecules, in the order given, as one batch."""
    whole = join(graphs)
    sizes = np.array([len(graph.atoms) for graph in graphs])
    first = np.cumsum(sizes) - sizes
    degree = np.bincount(whole.ends.ravel(), minlength=len(whole.atoms))
    start = np.cumsum(degree) - degree
    order = np.argsort(whole.ends.T.ravel(), kind="stable")  # both directions of every bond, by the atom it leaves
    neighbours = whole.ends[:, ::-1].T.ravel()[order]
    bonds = order % max(len(whole.ends), 1)
    neighbourhoods = []
    for d in np.unique(degree):
        atoms = np.flatnonzero(degree == d)
        places = start[atoms, None] + np.arange(d)
        neighbourhoods.append(Neighbourhood(atoms, neighbours[places], bonds[places]))
    molecule = np.repeat(np.arange(len(graphs)), sizes)
    position = np.arange(len(molecule)) - first[molecule]
    return GraphBatch(whole.atoms, whole.bonds, tuple(neighbourhoods), molecule, position, sizes)
