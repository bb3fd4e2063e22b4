"""Features of perturbations: a table per name, rows single perturbations, carried to models in uns."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from trueshift.contract import ContractError, components, metadata, target_gene
from trueshift.data.canonical.columns import plain
from trueshift.data.frames import read_frame
from trueshift.data.local_files import Log, ensure
from trueshift.data.options import choices
from trueshift.data.pickles.vectors import read_vectors

SIMULATED = "simulated"
COMPUTED = ("morgan", "descriptors")
KEYS = ("name", "smiles")
COVERAGE = ["dataset", "features", "n_features", "n_perturbations", "n_covered", "missing"]
SHOWN = 5


def load_features(
    wanted: Mapping[str, Any],
    simulated: Mapping[str, pd.DataFrame],
    components: Iterable[str],
    data_folder: str | Path,
    log: Log = print,
    structures: pd.DataFrame | None = None,
) -> dict[str, pd.DataFrame]:
    """The features named in ``wanted``.

    ``simulated``; ``morgan`` or ``descriptors``, computed from ``structures``
    (:func:`trueshift.data.features.structures.morgan`, :func:`~trueshift.data.features.structures.descriptors`); or a
    file: csv, tsv, parquet, npz, pickle (a mapping of names to vectors), as a path or with ``path``, ``url``,
    ``sha256``, … and ``key``. A table has names of single perturbations in its first column (npz: arrays ``names`` and
    ``values``), with ``key: smiles`` their SMILES, and numbers in the others. SMILES are joined by identity of the
    molecule, however they are written.

    Returns tables with rows for those ``components`` that have features (a component ``NAME@modality`` may use the row
    of ``NAME``) and columns f0, f1, …; the log says which have none. Nothing is filled in.
    Raises :class:`ContractError` on values that are not finite numbers, on names that occur twice, if none match, and
    if structures are needed where there are none.
    """
    components, tables = sorted(components), {}
    for name, entry in wanted.items():
        where = f"features: {name}"
        if entry == SIMULATED:
            if name not in simulated:
                raise ContractError(f"{where}: the source simulates no such features; give a file")
            table = simulated[name]
        elif entry in COMPUTED:
            table = _computed(entry, _needed(structures, where, entry), log)
        else:
            file = {"path": entry} if isinstance(entry, str) else dict(entry)
            key = file.pop("key", KEYS[0])
            if key not in KEYS:
                raise ContractError(f"{where}: key is {key}; {choices(key, KEYS)}")
            path = ensure(file, data_folder).path
            where = f"{where}: {path.name}"
            table = _read(path)
            if key == "smiles":
                _check(table, where)
                table = _joined(table, _needed(structures, where, "key: smiles"), where, log)
            else:
                table.index = table.index.map(plain)
        _check(table, where)
        rows = {part: key for part in components for key in (target_gene(part), part) if key in table.index}
        if not rows:
            raise ContractError(
                f"{where}: no perturbation has a row; rows are such as {table.index[0]}, perturbations {components[0]}"
            )
        values = table.loc[list(rows.values())].to_numpy(dtype=np.float32)
        if not np.isfinite(values).all():
            bad = list(rows)[np.flatnonzero(~np.isfinite(values).all(axis=1))[0]]
            raise ContractError(f"{where}: features of {bad} are NaN or infinite")
        columns = [f"f{i}" for i in range(values.shape[1])]
        tables[name] = pd.DataFrame(values, index=pd.Index(list(rows)), columns=columns)
        lacking = [part for part in components if part not in rows]
        without = f"; not for {', '.join(lacking[:SHOWN])}{' …' if len(lacking) > SHOWN else ''}" if lacking else ""
        log(f"features {name}: {values.shape[1]} for {len(rows)} of {len(components)} single perturbations{without}")
    return tables


def coverage(adata: ad.AnnData) -> pd.DataFrame:
    """How many single perturbations of a dataset have a structure, and each of the features: a row each.

    Columns: ``dataset``, ``features`` (a name, or structures), ``n_features``, ``n_perturbations``, ``n_covered`` and
    ``missing``, the first five that have none. Without structures and features there is no row.
    """
    labels = adata.obs["perturbation"].astype(str).unique()
    singles = sorted({part for label in labels for part in components(label)})
    tables = {"structures": adata.uns["structures"]} if "structures" in adata.uns else {}
    tables |= adata.uns.get("perturbation_features", {})
    rows = []
    for name, table in tables.items():
        lacking = [part for part in singles if part not in table.index]
        width = pd.NA if name == "structures" else table.shape[1]
        covered = len(singles) - len(lacking)
        rows.append([metadata(adata)["dataset"], name, width, len(singles), covered, ", ".join(lacking[:SHOWN])])
    return pd.DataFrame(rows, columns=COVERAGE)


def _needed(structures: pd.DataFrame | None, where: str, what: str) -> pd.DataFrame:
    if structures is None:
        raise ContractError(
            f"{where}: {what} needs the structures of drugs; name their column (columns: smiles: …) or give a table "
            "with perturbation and smiles (structures: …)"
        )
    return structures


# RDKit takes long to import and most datasets need none of it: only where it is asked for
def _computed(name: str, structures: pd.DataFrame, log: Log) -> pd.DataFrame:
    from trueshift.data.features.structures import descriptors, morgan

    return morgan(structures) if name == "morgan" else descriptors(structures, log)


def _joined(table: pd.DataFrame, structures: pd.DataFrame, where: str, log: Log) -> pd.DataFrame:
    from trueshift.data.features.structures import joined

    return joined(table, structures, where, log)


def _check(table: pd.DataFrame, where: str) -> None:
    if not table.index.is_unique:
        raise ContractError(f"{where}: {table.index[table.index.duplicated()][0]} occurs twice")
    words = [column for column in table if not pd.api.types.is_numeric_dtype(table[column])]
    if words:
        raise ContractError(f"{where}: column '{words[0]}' is not numeric; encode it as numbers")


def _read(path: Path) -> pd.DataFrame:
    if path.suffix in (".pkl", ".pickle"):
        vectors = read_vectors(path)
        return pd.DataFrame(np.stack(list(vectors.values())), index=pd.Index(list(vectors)))
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            if not {"names", "values"} <= set(file):
                raise ContractError(f"{path}: needs arrays names and values; there are {', '.join(file) or 'none'}")
            return pd.DataFrame(file["values"], index=pd.Index(file["names"].astype(str)))
    table = read_frame(path)
    if isinstance(table.index, pd.RangeIndex):
        table = table.set_index(table.columns[0])
    table.index = pd.Index(table.index.astype(str))
    return table
