"""Source format ``table``: dense expression and cell metadata, each CSV, TSV (also gzipped) or parquet."""

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

    ``cell_column`` is the metadata column with the cell ids, by default the first. Cells without metadata are left
    out, which the log says. ``separator`` is what separates the columns of text files, by default commas, and tabs of
    ``.tsv`` and ``.txt``. Raises :class:`ContractError` on text among the values and on ids that do not match.
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
