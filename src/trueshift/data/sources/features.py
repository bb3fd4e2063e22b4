"""Features of perturbations: a table per name, rows single perturbations, carried to models in uns."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trueshift.contract import ContractError, target_gene
from trueshift.data.sources.download import Log, ensure
from trueshift.data.sources.table import read_frame

SIMULATED = "simulated"


def load_features(
    wanted: Mapping[str, Any],
    simulated: Mapping[str, pd.DataFrame],
    components: Iterable[str],
    data_folder: str | Path,
    log: Log = print,
) -> dict[str, pd.DataFrame]:
    """Reads the features named in ``wanted``: ``simulated``, or a file (csv, tsv, parquet, npz; with url, sha256, …).

    A table has the names of single perturbations in its first column (npz: arrays ``names`` and ``values``) and
    numbers in the others. Returns tables with rows for those ``components`` that have features (a component
    ``NAME@modality`` may use the row of ``NAME``) and columns f0, f1, …; the log says how many have none.
    Raises :class:`ContractError` on values that are not finite numbers, on names that occur twice, or if none match.
    """
    components, tables = sorted(components), {}
    for name, entry in wanted.items():
        if entry == SIMULATED:
            if name not in simulated:
                raise ContractError(f"features: {name}: the source simulates no such features; give a file")
            table, origin = simulated[name], SIMULATED
        else:
            file = ensure(entry, data_folder, log)
            table, origin = _read(file.path), file.path.name
        where = f"features: {name}: {origin}"
        if not table.index.is_unique:
            raise ContractError(f"{where}: {table.index[table.index.duplicated()][0]} occurs twice")
        words = [column for column in table if not pd.api.types.is_numeric_dtype(table[column])]
        if words:
            raise ContractError(f"{where}: column '{words[0]}' is not numeric; encode it as numbers")
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
        log(f"features {name}: {values.shape[1]} for {len(rows)} of {len(components)} single perturbations")
    return tables


def _read(path: Path) -> pd.DataFrame:
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
