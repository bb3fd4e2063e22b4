"""What the structure of a drug tells: canonical SMILES, scaffolds, fingerprints and descriptors, all computed by RDKit.

RDKit is imported here alone, and this module only where a dataset asks for it: its import takes longer than most
imports of data. Two ways of writing one molecule have one canonical SMILES, which is how tables are joined.
"""

from collections.abc import Collection, Hashable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from rdkit import Chem, rdBase
from rdkit.Chem import Descriptors, rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold

from trueshift.contract import ContractError, target_gene
from trueshift.data.canonical.columns import column, plain, text
from trueshift.data.frames import read_frame
from trueshift.data.local_files import Log
from trueshift.data.options import SHOWN

NONE = "-666"  # how LINCS writes that there is none
BITS, RADIUS = 2048, 2
CLIP = 5.0  # standard deviations
ROUNDING = 1e-12  # a descriptor that varies by less, of its size, is constant
ALIKE = {"rtol": 1e-3, "atol": 1e-4}  # two writings of one molecule may give a network's embeddings that differ so much


def canonical(smiles: str) -> str | None:
    """RDKit's canonical isomeric SMILES of a molecule, salts and all; None for what is not the SMILES of one."""
    molecule = _molecule(smiles)
    return (Chem.MolToSmiles(molecule) or None) if molecule is not None else None


def _molecule(smiles: str) -> Chem.Mol | None:
    with rdBase.BlockLogs():  # what cannot be read is said here, by name
        return Chem.MolFromSmiles(smiles)


def scaffold(smiles: str) -> str:
    """The SMILES of the Bemis–Murcko scaffold (1996, doi:10.1021/jm9602928): rings and what links them.

    Without stereochemistry. A molecule without a ring has none, empty text: a split by scaffolds takes each of those by
    itself.
    """
    return str(MurckoScaffold.MurckoScaffoldSmiles(mol=_molecule(smiles)))


def column_smiles(perturbation: pd.Series, smiles: pd.Series) -> dict[str, set[str]]:
    """The texts that the rows of each label have for SMILES; both categorical, one row a cell.

    Those of a combination stay under its label, not under its components: whose structure they are is not said.
    """
    codes = pd.DataFrame({"perturbation": perturbation.cat.codes, "smiles": smiles.cat.codes}).drop_duplicates()
    given: dict[str, set[str]] = {}
    for label, written in codes[codes["smiles"] >= 0].to_numpy():
        given.setdefault(str(perturbation.cat.categories[label]), set()).add(str(smiles.cat.categories[written]))
    return given


def table_smiles(path: Path, components: Collection[str]) -> dict[str, set[str]]:
    """The SMILES of perturbations from a table with the columns ``perturbation`` and ``smiles``.

    Names are as in the source, or as they are after renaming (``+`` as ``plus``); ``NAME@modality`` may use the row
    of ``NAME``. Rows of other perturbations are not read.
    """
    table = read_frame(path)
    names, smiles = (text(column(table, name, str(path))) for name in ("perturbation", "smiles"))
    rows: dict[str, set[str]] = {}
    for name, written in zip(names, smiles, strict=True):
        if not pd.isna(name) and not pd.isna(written):
            rows.setdefault(plain(name), set()).add(written)
    given = {part: rows.get(part) or rows.get(target_gene(part)) for part in components}
    found = {part: texts for part, texts in given.items() if texts}
    if not found:
        example = f"rows are such as {next(iter(rows))}" if rows else "there are no rows"
        raise ContractError(f"{path}: no perturbation has a SMILES; {example}, perturbations {min(components)}")
    return found


def make_structures(
    given: Mapping[str, Collection[str]], components: Collection[str], where: str, log: Log
) -> pd.DataFrame:
    """The structures of single perturbations: index their names, columns ``smiles`` (canonical) and ``scaffold``.

    ``given`` has the SMILES of each as written. A perturbation without any that can be read is named, counted and left
    out. Raises :class:`ContractError` for one with two different structures, and if none is left.
    """
    found: dict[str, str] = {}
    lacking, unreadable = [], []
    for part in sorted(components):
        texts = sorted(set(given.get(part, ())) - {NONE})
        read = {written: canonical(written) for written in texts}
        molecules = {smiles: written for written, smiles in read.items() if smiles}
        if len(molecules) > 1:
            one, other = sorted(molecules)[:2]
            raise ContractError(
                f"{where}: {part} has {len(molecules)} different structures, {molecules[one]} ({one}) and "
                f"{molecules[other]} ({other}); give each its own name, or correct the SMILES"
            )
        if molecules:
            found[part] = next(iter(molecules))
        unreadable += [f"{part} ({written})" for written, smiles in read.items() if not smiles]
        lacking += [] if texts else [part]
    log(f"structures: {len(found)} for {len(components)} single perturbations")
    for names, what in ((lacking, "perturbations have no SMILES"), (unreadable, "SMILES cannot be read")):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            log(f"structures: {len(names)} {what}: {', '.join(names[:SHOWN])}{more}")
    if not found:
        example = unreadable[0] if unreadable else f"{min(components)} has none"
        raise ContractError(
            f"{where}: no perturbation has a SMILES that can be read ({example}); correct columns: smiles or structures"
        )
    table = pd.DataFrame({"smiles": list(found.values())}, index=pd.Index(list(found)), dtype=object)
    table["scaffold"] = [scaffold(smiles) for smiles in table["smiles"]]
    return table


# --- features -----------------------------------------------------------------------------------------


def morgan(structures: pd.DataFrame) -> pd.DataFrame:
    """Morgan fingerprints (Rogers & Hahn 2010, doi:10.1021/ci100050t), radius 2, folded to 2,048 bits: 0 or 1, float32.

    Without chirality, so stereoisomers have one fingerprint.
    """
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    bits = [generator.GetFingerprintAsNumPy(_molecule(smiles)) for smiles in structures["smiles"]]
    return pd.DataFrame(np.stack(bits).astype(np.float32), index=structures.index)


def descriptors(structures: pd.DataFrame, log: Log) -> pd.DataFrame:
    """RDKit's 2-D descriptors (``rdkit.Chem.Descriptors``), each with mean 0 and variance 1 over ``structures``.

    ``Ipc``, which grows exponentially with the size of a molecule, is taken as log(1 + Ipc). Descriptors that are
    undefined or infinite for some drug, or the same for all, are left out; values are clipped at ±5. No expression is
    used. Raises :class:`ContractError` if none is left.
    """
    with rdBase.BlockLogs():
        rows = [Descriptors.CalcMolDescriptors(_molecule(smiles)) for smiles in structures["smiles"]]
    values = pd.DataFrame(rows, index=structures.index).astype(np.float64)
    values["Ipc"] = np.log1p(values["Ipc"])
    defined = values.loc[:, np.isfinite(values.to_numpy()).all(axis=0)]
    spread = defined.std(ddof=0)
    varied = defined.loc[:, spread > ROUNDING * defined.abs().max()]
    undefined, constant = values.shape[1] - defined.shape[1], defined.shape[1] - varied.shape[1]
    log(f"descriptors: of {values.shape[1]}, {undefined} undefined for some drug and {constant} constant left out")
    if varied.empty:
        raise ContractError(f"features: descriptors: none differs between the {len(structures)} drugs with a structure")
    return ((varied - varied.mean()) / varied.std(ddof=0)).clip(-CLIP, CLIP)


def joined(table: pd.DataFrame, structures: pd.DataFrame, where: str, log: Log) -> pd.DataFrame:
    """The rows of a table keyed by SMILES that belong to perturbations, by identity of canonical SMILES.

    ``table``: index SMILES however written, numbers; several of one molecule must be alike but for rounding. Returns
    rows named by perturbation; perturbations without one are absent.
    """
    wanted, unreadable = set(structures["smiles"]), 0
    row_of: dict[Hashable, int] = {}
    values = table.to_numpy()
    for row, written in enumerate(table.index):
        smiles = canonical(written)
        unreadable += smiles is None
        if smiles not in wanted:
            continue
        first = row_of.setdefault(smiles, row)
        if not np.allclose(values[first], values[row], **ALIKE, equal_nan=True):
            raise ContractError(
                f"{where}: {table.index[first]} and {written} are one molecule with different values; keep one"
            )
    if unreadable:
        log(f"{where}: {unreadable} of {len(table)} SMILES cannot be read")
    names = [name for name, smiles in structures["smiles"].items() if smiles in row_of]
    if not names:
        raise ContractError(
            f"{where}: no perturbation has a row; rows are such as {table.index[0]}, structures "
            f"{structures['smiles'].iloc[0]}"
        )
    return table.iloc[[row_of[smiles] for smiles in structures.loc[names, "smiles"]]].set_axis(names)
