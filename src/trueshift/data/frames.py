"""Tables as readers meet them: from a file by its ending, and metadata put beside the cells of a matrix."""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import pandas as pd
from scipy import sparse

from trueshift.contract import ContractError
from trueshift.data.options import choices

LINCS_MISSING = {"", "-666", "-666.0", "NA", "na", "NaN", "nan"}  # -666 is LINCS's own mark


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
    table.index = text_index(table.index).rename(None)
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


def text_index(index: pd.Index) -> pd.Index:
    """Ids as text."""
    return pd.Index(index.astype(str))
