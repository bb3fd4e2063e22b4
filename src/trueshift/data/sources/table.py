"""Source format ``table``: dense expression and cell metadata, each CSV, TSV (also gzipped) or parquet."""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift.contract import ContractError
from trueshift.data.sources.messages import choices


def read(
    expression: str | Path,
    metadata: str | Path,
    cell_column: str | None = None,
    transpose: bool = False,
    log: Callable[[str], None] = print,
) -> ad.AnnData:
    """Reads expression (rows cells, first column their ids; genes × cells with ``transpose``) and metadata.

    ``cell_column`` is the metadata column with the cell ids, by default the first. Cells without metadata are left
    out, which the log says. Raises :class:`ContractError` on text among the values and on ids that do not match.
    """
    values = read_frame(expression)
    values = values.set_index(values.columns[0]) if isinstance(values.index, pd.RangeIndex) else values
    words = [column for column in values if not pd.api.types.is_numeric_dtype(values[column])]
    if words:
        example = values[words[0]].iloc[0]
        raise ContractError(f"{expression}: column '{words[0]}' is not numeric (such as '{example}'); remove or fix it")
    matrix = sparse.csr_matrix(values.to_numpy(dtype=np.float32))
    rows, columns = _text(values.index), _text(values.columns)
    if transpose:
        matrix, rows, columns = matrix.T.tocsr(), columns, rows
    return join(matrix, rows, pd.DataFrame(index=columns), metadata, cell_column, log)


def read_frame(path: str | Path) -> pd.DataFrame:
    """Reads a table by its ending: .parquet, else text with commas, or tabs where the name has .tsv or .txt."""
    if Path(path).suffix == ".parquet":
        return pd.read_parquet(path)
    tabs = {".tsv", ".txt"} & set(Path(path).suffixes)
    try:
        return pd.read_csv(path, sep="\t" if tabs else ",", low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ContractError(f"{path}: cannot be read as a table ({error})") from error


def join(
    matrix: sparse.csr_matrix,
    cells: pd.Index,
    var: pd.DataFrame,
    metadata: str | Path,
    cell_column: str | None,
    log: Callable[[str], None],
) -> ad.AnnData:
    """Puts the rows of a metadata table beside the cells of a matrix, shape (cells, genes), by cell id."""
    table = read_frame(metadata)
    if cell_column is None and isinstance(table.index, pd.RangeIndex):
        cell_column = str(table.columns[0])
    if cell_column is not None:
        if cell_column not in table:
            raise ContractError(f"{metadata}: no column '{cell_column}'; {choices(cell_column, table.columns)}")
        table = table.set_index(cell_column, drop=False)
    table.index = _text(table.index).rename(None)
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise ContractError(f"{metadata}: cell id {twice} occurs twice; one row a cell, please")
    known = cells.isin(table.index)
    if not known.any():
        raise ContractError(
            f"{metadata}: no cell id is among those of the matrix (there {cells[0]}, here {table.index[0]}); "
            "name the right cell_column"
        )
    if not known.all():
        log(f"{(~known).sum()} of {len(cells)} cells have no row in {Path(metadata).name} and are left out")
        matrix, cells = matrix[known], cells[known]
    obs = table.reindex(cells.unique()).loc[cells]
    return ad.AnnData(matrix, obs=obs, var=var)


def _text(index: pd.Index) -> pd.Index:
    return pd.Index(index.astype(str))
