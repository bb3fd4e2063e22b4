"""Source format ``mtx``: a MatrixMarket matrix with barcodes, genes and a metadata table, plain or gzipped."""

from collections.abc import Callable
from pathlib import Path

import anndata as ad

from trueshift.data.frames import join
from trueshift.data.matrix_market import read_matrix

FILES = ("matrix", "barcodes", "genes", "metadata")


def read(
    matrix: str | Path,
    barcodes: str | Path,
    genes: str | Path,
    metadata: str | Path,
    gene_column: int | None = None,
    cell_column: str | None = None,
    separator: str | None = None,
    log: Callable[[str], None] = print,
) -> ad.AnnData:
    """Reads the three files of a 10x-like matrix (genes × cells or cells × genes) and its cell metadata.

    ``barcodes`` and ``genes`` are lists in any form of :mod:`trueshift.data.name_lists`. ``gene_column`` counts from 0,
    after row numbers, and gives the gene names: by default the second column (symbols) if there is one. The other
    columns: :func:`trueshift.data.matrix_market.read_matrix`. ``cell_column`` is the metadata column with the barcodes,
    by default the first; cells without metadata are left out, which the log says. ``separator`` is what separates the
    columns of metadata.
    Raises :class:`ContractError` if a file cannot be read or the sizes do not fit.
    """
    values, cells, var = read_matrix(matrix, barcodes, genes, gene_column, log)
    return join(values, cells, var, metadata, cell_column, separator, log)
