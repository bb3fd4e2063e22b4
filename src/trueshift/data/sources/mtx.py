"""Source format ``mtx``: a MatrixMarket matrix with barcodes, genes and a metadata table, plain or gzipped."""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.io import mmread

from trueshift.contract import ContractError
from trueshift.data.frames import join

FILES = ("matrix", "barcodes", "genes", "metadata")


def read(
    matrix: str | Path,
    barcodes: str | Path,
    genes: str | Path,
    metadata: str | Path,
    gene_column: int | None = None,
    cell_column: str | None = None,
    log: Callable[[str], None] = print,
) -> ad.AnnData:
    """Reads the three files of a 10x-like matrix (genes × cells or cells × genes) and its cell metadata.

    ``barcodes`` and ``genes`` have no header. ``gene_column`` counts from 0 and gives the gene names, by default the
    second column (symbols) if there is one; the first column is kept as ``gene_id``. ``cell_column`` is the metadata
    column with the barcodes, by default the first; cells without metadata are left out, which the log says.
    Raises :class:`ContractError` if the sizes do not fit.
    """
    cells = pd.Index(pd.read_csv(barcodes, sep="\t", header=None, usecols=[0])[0].astype(str))
    names = pd.read_csv(genes, sep="\t", header=None, dtype=str)
    column = min(1, names.shape[1] - 1) if gene_column is None else gene_column
    if column not in names:
        raise ContractError(f"{genes}: no column {column}; gene_column counts from 0 and there are {names.shape[1]}")
    var = pd.DataFrame({"gene_id": names[0].to_numpy()}, index=pd.Index(names[column].fillna(names[0]).to_numpy()))
    try:
        values = mmread(matrix)
    except (ValueError, OSError, EOFError) as error:
        raise ContractError(f"{matrix}: cannot be read as MatrixMarket ({error})") from error
    if values.shape == (len(var), len(cells)):  # the 10x way; decides for square ones too
        values = values.T
    elif values.shape != (len(cells), len(var)):
        raise ContractError(
            f"{matrix}: {values.shape[0]} × {values.shape[1]}, but there are {len(cells)} barcodes in {barcodes} "
            f"and {len(var)} genes in {genes}"
        )
    return join(sparse.csr_matrix(values, dtype=np.float32), cells, var, metadata, cell_column, log)
