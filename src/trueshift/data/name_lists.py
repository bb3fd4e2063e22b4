"""The lists of cells and genes beside a matrix, in the forms that Cell Ranger and R write.

One cell or gene a line, in one or several columns that tabs, commas, semicolons or (between quotes) spaces separate;
perhaps quoted, perhaps below a header line, perhaps after a column of row numbers; plain or gzipped. What a file is,
its content says, not its name.
"""

import csv
import zlib
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from trueshift.contract import ContractError
from trueshift.data.frames import SEPARATORS, open_text


class NameList(NamedTuple):
    """The lines of a list, split into fields, and what separates them ("" where there is one column)."""

    path: Path
    lines: list[list[str]]
    separator: str

    def entries(self, count: int) -> tuple[pd.DataFrame, str] | None:
        """The entries, if there are ``count``: text, shape (count, columns), and in words what was taken off.

        One line more is a header, which may lack the field above the row numbers, as R writes it.
        """
        headers = len(self.lines) - count
        if headers not in (0, 1) or count < 1 or (not headers and len(self.lines[0]) < len(self.lines[-1])):
            return None
        table = pd.DataFrame(self.lines[headers:], dtype=object)
        found = [SEPARATORS.get(self.separator, "spaces")] * bool(self.separator) + ["a header line"] * headers
        if table.shape[1] > 1 and any(
            table[0].tolist() == [str(number) for number in range(start, start + count)] for start in (0, 1)
        ):
            table = table.iloc[:, 1:].set_axis(range(table.shape[1] - 1), axis=1)
            found.append("row numbers")
        return table, ", ".join(found) or "one name a line"


def read_list(path: str | Path) -> NameList:
    """Reads a list; raises :class:`ContractError` for a file that is in none of the forms."""
    try:
        with open_text(path) as stream:
            lines = [line for line in stream.read().splitlines() if line]
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ContractError(f"{path}: cannot be read as text ({error}); name the list of cells or genes") from error
    spaces = " " if lines and lines[-1].startswith('"') else ""
    for separator in (*SEPARATORS, *spaces):
        rows = _split(lines, separator)
        if rows and len(rows[-1]) > 1:
            return NameList(Path(path), rows, separator)
    rows = _split(lines, "\t")
    if not rows:
        raise ContractError(
            f"{path}: no list of names, one a line, in columns that tabs or commas separate: the lines have different "
            "numbers of columns, or there are none"
        )
    return NameList(Path(path), rows, "")


def _split(lines: list[str], separator: str) -> list[list[str]]:
    """The fields of every line; none where the lines differ in number, but for a first that is one shorter."""
    try:
        rows = list(csv.reader(lines, delimiter=separator))
    except csv.Error:
        return []
    width = len(rows[-1]) if rows else 0
    even = all(len(row) == width for row in rows[1:]) and bool(rows) and len(rows[0]) in (width, width - 1)
    return rows if even else []
