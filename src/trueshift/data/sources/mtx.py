"""Source format ``mtx``: a MatrixMarket matrix with barcodes, genes and a metadata table, plain or gzipped.

An entry::

    kind: counts
    source:
      format: mtx
      matrix: "{data}/matrix.mtx.gz"
      barcodes: "{data}/barcodes.tsv.gz"
      genes: "{data}/features.tsv.gz"
      metadata: "{data}/cells.csv"
    columns:
      perturbation: {from: guide, control: NT}
      context: line
"""

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

    - ``matrix``: The MatrixMarket file, genes × cells or cells × genes.
    - ``barcodes``: The list of cells: one a line, or a table, with or without a header and row numbers.
    - ``genes``: The list of genes, in the same forms.
    - ``metadata``: A CSV, TSV or parquet table with a row for each cell. Cells without a row are left out.
    - ``gene_column``: The column of genes with their names, counted from 0 after row numbers; by default the second
      (symbols) if there is one.
    - ``cell_column``: The column of metadata with the barcodes; by default the first.
    - ``separator``: The character between the columns of metadata; by default a comma, in .tsv and .txt a tab.

    Forms of the lists: :mod:`trueshift.data.name_lists`; their other columns:
    :func:`trueshift.data.matrix_market.read_matrix`. The log says how many cells are left out.

    Raises :class:`ContractError` if a file cannot be read or the sizes do not fit.
    """
    values, cells, var = read_matrix(matrix, barcodes, genes, gene_column, log)
    return join(values, cells, var, metadata, cell_column, separator, log)
