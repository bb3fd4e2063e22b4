"""Source format ``tenx``: what Cell Ranger writes, a folder of three files or an HDF5 file, versions 2 and 3 on.

https://www.10xgenomics.com/support/software/cell-ranger/latest/analysis/outputs/cr-outputs-mex-matrices and
…/cr-outputs-h5-matrices. An entry::

    kind: counts
    source: {format: tenx, path: "{data}/filtered_feature_bc_matrix", metadata: "{data}/cells.csv"}
    columns:
      perturbation: {from: guide, control: NT}
      context: line
"""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift.contract import ContractError
from trueshift.data.canonical.features import TYPES
from trueshift.data.file_kinds import is_tenx
from trueshift.data.frames import join
from trueshift.data.matrix_market import read_matrix, unique_names

FILES = ("path", "metadata")
FOLDERS = ("path",)
PARTS = {"matrix": ("matrix.mtx",), "barcodes": ("barcodes.tsv",), "genes": ("features.tsv", "genes.tsv")}
BARCODE = "barcode"  # the obs column with the ids of cells


def read(
    path: str | Path,
    metadata: str | Path | None = None,
    cell_column: str | None = None,
    separator: str | None = None,
    log: Callable[[str], None] = print,
) -> ad.AnnData:
    """Reads cells × features of a folder (``matrix.mtx``, ``barcodes.tsv``, ``features.tsv`` or ``genes.tsv``, each
    plain or gzipped) or of an ``.h5`` file.

    - ``path``: Cell Ranger's folder of three files, or its .h5 file; {data} is the data folder.
    - ``metadata``: A CSV, TSV or parquet table with a row for each cell. Cells without a row are left out.
    - ``cell_column``: The column of metadata with the barcodes; by default the first.
    - ``separator``: The character between the columns of metadata; by default a comma, in .tsv and .txt a tab.

    X is float32, shape (cells, features), in counts. var is named by symbol, by symbol and id where genes share one,
    and has ``gene_id`` and ``feature_types`` (not of version 2). obs has ``barcode`` and the columns of ``metadata``.
    The log says how many cells are left out.

    Raises :class:`ContractError` if the folder or the file is not what Cell Ranger writes.
    """
    values, cells, var = _folder(Path(path), log) if Path(path).is_dir() else _file(path, log)
    if metadata is None:
        return ad.AnnData(values, obs=pd.DataFrame({BARCODE: cells.to_numpy()}, index=cells), var=var)
    adata = join(values, cells, var, metadata, cell_column, separator, log)
    if BARCODE not in adata.obs:
        adata.obs[BARCODE] = adata.obs_names.to_numpy()
    return adata


def _folder(folder: Path, log: Callable[[str], None]) -> tuple[sparse.csr_matrix, pd.Index, pd.DataFrame]:
    files = {}
    for part, names in PARTS.items():
        there = [folder / f"{name}{end}" for name in names for end in ("", ".gz") if (folder / f"{name}{end}").exists()]
        if len(there) != 1:
            what = "several of" if there else "none of"
            raise ContractError(
                f"{folder}: there is {what} {' and '.join(names)}, plain or gzipped, in this folder; name the folder "
                "that holds the three files of Cell Ranger, or use format: mtx for files with other names"
            )
        files[part] = there[0]
    return read_matrix(files["matrix"], files["barcodes"], files["genes"], None, log)


def _file(path: str | Path, log: Callable[[str], None]) -> tuple[sparse.csr_matrix, pd.Index, pd.DataFrame]:
    _check_layout(path)
    import scanpy  # here because its import takes seconds, and other sources need none of it

    try:
        adata = scanpy.read_10x_h5(path, gex_only=False)
        adata.X.check_format(full_check=True)  # indices of a damaged file point outside of the matrix
    except Exception as error:  # scanpy raises no class of its own
        first = str(error).split("\n")[0]
        raise ContractError(
            f"{path}: cannot be read as Cell Ranger's HDF5 ({first}); copy or fetch it again"
        ) from error
    columns = {"gene_ids": "gene_id", TYPES: TYPES}
    var = pd.DataFrame({new: adata.var[old].astype(str).to_numpy() for old, new in columns.items() if old in adata.var})
    var.index = unique_names(pd.Series(adata.var_names.astype(str)), var, log)
    return sparse.csr_matrix(adata.X, dtype=np.float32), pd.Index(adata.obs_names.astype(str)), var


def _check_layout(path: str | Path) -> None:
    try:
        with h5py.File(path, "r") as file:
            names = sorted(file)
            if {"obs", "var"} <= set(names):
                raise ContractError(f"{path}: this is an h5ad, not Cell Ranger's HDF5; use format: h5ad")
            if not is_tenx(file):
                raise ContractError(f"{path}: no Cell Ranger matrix in this file; it holds: {', '.join(names[:5])}")
            if "matrix" not in names and len(names) > 1:
                raise ContractError(
                    f"{path}: several genomes ({', '.join(names[:5])}); name the folder of one of them instead"
                )
    except OSError as error:
        raise ContractError(
            f"{path}: cannot be read as HDF5 ({error}); name Cell Ranger's folder or .h5 file"
        ) from error
