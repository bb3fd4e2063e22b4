"""Tables as readers meet them: from a file by its ending, and metadata put beside the cells of a matrix."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import TextIO, cast

import anndata as ad
import pandas as pd
from scipy import sparse

from trueshift.contract import ContractError
from trueshift.data.options import choices

GZIP = b"\x1f\x8b"
UTF8 = "utf-8-sig"  # with or without a byte order mark
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons"}
LINCS_MISSING = {"", "-666", "-666.0", "NA", "na", "NaN", "nan"}  # -666 is LINCS's own mark


def open_text(path: str | Path) -> TextIO:
    """A text file in UTF-8, with or without a byte order mark, plain or gzipped as its first bytes say."""
    with Path(path).open("rb") as start:
        zipped = start.read(len(GZIP)) == GZIP
    if zipped:
        return cast(TextIO, gzip.open(path, "rt", encoding=UTF8))
    return Path(path).open(encoding=UTF8)


def read_frame(path: str | Path, separator: str | None = None, settable: bool = False) -> pd.DataFrame:
    """Reads a table by its ending: .parquet, else text with commas, or tabs where the name has .tsv or .txt.

    ``separator`` is another character between the columns of text. A header that holds another one instead is a
    :class:`ContractError`; it names the key ``separator`` if the user has one (``settable``).
    """
    if Path(path).suffix == ".parquet":
        return pd.read_parquet(path)
    tabs = {".tsv", ".txt"} & set(Path(path).suffixes)
    mark = separator or ("\t" if tabs else ",")
    if len(mark) != 1:
        raise ContractError(f'separator is "{mark}"; give one character, such as ";"')
    try:
        _check_separator(list(map(str, pd.read_csv(path, sep=mark, nrows=0).columns)), path, mark, settable)
        return pd.read_csv(path, sep=mark, low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ContractError(f"{path}: cannot be read as a table ({error})") from error


def _check_separator(header: list[str], path: str | Path, mark: str, settable: bool) -> None:
    found = next((other for other in SEPARATORS if other != mark and other in header[0]), None)
    if len(header) > 1 or found is None:
        return
    written = found.replace("\t", "\\t")
    remedy = f'set separator: "{written}" in source' if settable else "write it with commas, or as .tsv with tabs"
    if settable and mark not in (",", "\t"):
        remedy += "; all text tables of a source have the same separator"
    raise ContractError(
        f"{path}: its separator seems to be {SEPARATORS[found]}, not {SEPARATORS.get(mark, repr(mark))}; {remedy}"
    )


def join(
    matrix: sparse.csr_matrix,
    cells: pd.Index,
    var: pd.DataFrame,
    metadata: str | Path,
    cell_column: str | None,
    separator: str | None,
    log: Callable[[str], None],
) -> ad.AnnData:
    """Puts the rows of a metadata table beside the cells of a matrix, shape (cells, genes), by cell id."""
    table = read_frame(metadata, separator, settable=True)
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
    obs = table.reindex(cells.unique()).loc[cells].rename_axis(None)
    return ad.AnnData(matrix, obs=obs, var=var)


def text_index(index: pd.Index) -> pd.Index:
    """Ids as text."""
    return pd.Index(index.astype(str))
