"""Source format ``gctx``: the HDF5 form of GCT, in which LINCS publishes its large tables.

https://clue.io/connectopedia/gctx_format. ``/0/DATA/0/matrix`` holds the values, one row a profile; ``/0/META/COL`` the
ids and metadata of profiles, ``/0/META/ROW`` those of genes, an array each, with ``id`` among them. An entry::

    kind: profile
    source: {format: gctx, path: "{data}/plate.gctx", genes: "{data}/landmarks.csv"}
    columns:
      perturbation: {from: pert_id, control: DMSO, separator: null}
      context: cell_id
      dose: {from: pert_idose, unit: uM}
"""

import contextlib
import zlib
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from trueshift.contract import ContractError
from trueshift.data.frames import LINCS_MISSING, open_text, read_frame
from trueshift.data.options import choices

FILES = ("path", "genes")
MATRIX, PROFILES, GENES = "/0/DATA/0/matrix", "/0/META/COL", "/0/META/ROW"
ID = "id"
BLOCK = 1 << 24  # values read together


def read(path: str | Path, genes: str | Path | None = None, log: Callable[[str], None] = print) -> ad.AnnData:
    """Reads profiles × genes: X float32, in the units of the file. Memory: the result and 64 MB.

    - ``path``: The file; {data} is the data folder.
    - ``genes``: A table whose first column has the ids of the genes to keep, such as the 978 landmarks; all by default.

    Genes stay in the order of the file. obs and var hold the metadata and ``id``; text is stripped, and ``-666``,
    ``NA`` and empty text are missing.

    Raises :class:`ContractError` if parts are missing or of unequal sizes, if ids occur twice, if a gene asked for is
    not in the file, or at the first value that is not finite, naming gene and profile.
    """
    try:
        with h5py.File(path, "r") as file:
            for part in (MATRIX, f"{PROFILES}/{ID}", f"{GENES}/{ID}"):
                if part not in file:
                    raise ContractError(f"{path}: no {part}; this is no GCTX file")
            obs, var = (_metadata(file[part], part, path) for part in (PROFILES, GENES))
            matrix = file[MATRIX]
            if matrix.shape != (len(obs), len(var)):
                raise ContractError(
                    f"{path}: the matrix is {matrix.shape}, but there are {len(obs)} profiles and {len(var)} genes"
                )
            kept = np.arange(len(var)) if genes is None else _chosen(var.index, genes, path)
            n_genes, var = len(var), var.iloc[kept]
            values = np.empty((len(obs), len(kept)), dtype=np.float32)
            step = max(1, BLOCK // max(1, matrix.shape[1]))
            for start in range(0, len(obs), step):
                block = matrix[start : start + step]
                values[start : start + step] = block[:, kept]
    except (OSError, KeyError) as error:
        _refuse_text(path)
        raise ContractError(f"{path}: cannot be read as GCTX ({error}); fetch it again") from error
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        profile, gene = bad[0]
        raise ContractError(
            f"{path}: {var.index[gene]} of profile {obs.index[profile]} is {values[profile, gene]}; fill it in, or "
            "leave the gene or the profile out"
        )
    log(f"{len(obs)} profiles, {len(kept)} of {n_genes} genes")
    return ad.AnnData(values, obs=obs, var=var)


def _refuse_text(path: str | Path) -> None:
    """Says so where a file is GCT, the text form, whatever its name."""
    with contextlib.suppress(OSError, EOFError, UnicodeDecodeError, zlib.error), open_text(path) as text:
        if text.read(3) == "#1.":
            raise ContractError(f"{path}: this is GCT, text, not GCTX; use format: gct")


def _metadata(group: h5py.Group, name: str, path: str | Path) -> pd.DataFrame:
    """The arrays of a group as columns, rows named by ``id``."""
    columns = {}
    for field in sorted(group):
        values = group[field][:]
        if values.dtype.kind in "SO":
            texts = (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values)
            columns[field] = [None if (text := raw.strip()) in LINCS_MISSING else text for raw in texts]
        else:
            columns[field] = [None if value == -666 else value for value in values.tolist()]
    sizes = {field: len(values) for field, values in columns.items()}
    odd = [field for field, size in sizes.items() if size != sizes[ID]]
    if odd:
        raise ContractError(f"{path}: {name}/{odd[0]} has {sizes[odd[0]]} values, {name}/{ID} has {sizes[ID]}")
    ids = pd.Index([str(value) for value in columns[ID]])
    if not ids.is_unique:
        raise ContractError(f"{path}: {name}: id '{ids[ids.duplicated()][0]}' occurs twice; make them unique")
    return pd.DataFrame({**columns, ID: ids.to_numpy()}, index=ids, dtype=object)


def _chosen(ids: pd.Index, genes: str | Path, path: str | Path) -> np.ndarray:
    table = read_frame(genes)
    wanted = table[table.columns[0]].astype(str)
    lost = wanted[~wanted.isin(ids)]
    if len(lost):
        raise ContractError(f"{genes}: gene '{lost.iloc[0]}' is not in {path}; {choices(lost.iloc[0], ids)}")
    return np.flatnonzero(ids.isin(wanted))
