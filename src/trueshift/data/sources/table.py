"""Source format ``table``: dense expression and cell metadata, each CSV, TSV (also gzipped) or parquet.

An entry::

    kind: counts
    source: {format: table, expression: "{data}/counts.csv", metadata: "{data}/cells.csv"}
    columns:
      perturbation: {from: guide, control: NT}
      context: line
"""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift.contract import ContractError
from trueshift.data.frames import join, read_frame, text_index

FILES = ("expression", "metadata")


def read(
    expression: str | Path,
    metadata: str | Path,
    cell_column: str | None = None,
    transpose: bool = False,
    separator: str | None = None,
    log: Callable[[str], None] = print,
) -> ad.AnnData:
    """Reads expression (rows cells, first column their ids; genes × cells with ``transpose``) and metadata.

    - ``expression``: A CSV, TSV or parquet table, a row for each cell, its first column their ids.
    - ``metadata``: Another one with a row for each cell. Cells without a row are left out, which the log says.
    - ``cell_column``: The column of metadata with the ids; by default the first.
    - ``transpose``: Expression has a row for each gene and a column for each cell.
    - ``separator``: The character between the columns of both text files; by default a comma, in .tsv and .txt a tab.

    Raises :class:`ContractError` on text among the values and on ids that do not match.
    """
    values = read_frame(expression, separator, settable=True)
    values = values.set_index(values.columns[0]) if isinstance(values.index, pd.RangeIndex) else values
    words = [column for column in values if not pd.api.types.is_numeric_dtype(values[column])]
    if words:
        example = values[words[0]].iloc[0]
        raise ContractError(f"{expression}: column '{words[0]}' is not numeric (such as '{example}'); remove or fix it")
    matrix = sparse.csr_matrix(values.to_numpy(dtype=np.float32))
    rows, columns = text_index(values.index), text_index(values.columns)
    if transpose:
        matrix, rows, columns = matrix.T.tocsr(), columns, rows
    return join(matrix, rows, pd.DataFrame(index=columns), metadata, cell_column, separator, log)
