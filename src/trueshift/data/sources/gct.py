"""Source format ``gct``: profiles in a GCT file of version 1.2 or 1.3, as LINCS and the Connectivity Map publish them.

A GCT file is text with tabs, genes × profiles (https://clue.io/connectopedia/gct_format)::

    #1.3
    rows  columns  row-metadata  column-metadata      (1.2: rows  columns)
    id    names of the row metadata    profile ids    (1.2: Name  Description  profile ids)
    one line per column metadata field: its name, a placeholder per row metadata field, a value per profile
    one line per gene: its id, its metadata, a value per profile

An entry::

    kind: profile
    source: {format: gct, path: "{data}/plate.gct"}
    columns:
      perturbation: {from: pert_id, control: DMSO, separator: null}
      context: cell_id
      dose: {from: pert_idose, unit: uM}
"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from trueshift.contract import ContractError
from trueshift.data.frames import LINCS_MISSING, open_text

FILES = ("path",)
ID = "id"  # the obs column with the ids of the profiles

Lines = Iterator[tuple[int, list[str]]]


def read(path: str | Path) -> ad.AnnData:
    """Reads profiles × genes from a GCT file, plain or gzipped: X float32, shape (profiles, genes), units of the file.

    - ``path``: The file, plain or gzipped; {data} is the data folder.

    obs holds the column metadata and ``id``, the ids of the profiles once more (version 1.2 has no column metadata:
    what its ids say can be had with ``extract``); var holds the row metadata. Metadata stay text; ``-666``, ``NA`` and
    empty fields are missing.

    Raises :class:`ContractError` if the version line is another, if the sizes are not those of the second line, if ids
    or names of metadata occur twice, or at the first value that is not a finite number, naming gene and profile.
    """
    with _lines(path) as lines:
        rows, columns, row_fields, column_fields = _sizes(lines, path)
        number, header = _next(lines, path, "the header")
        start, width = 1 + row_fields, 1 + row_fields + columns
        if len(header) != width:
            raise ContractError(
                f"{path}: the header has {len(header)} fields, the sizes in line 2 ask for {width} (id, {row_fields} "
                f"of row metadata, {columns} profiles); correct line 2 or the header"
            )
        profiles = _unique(header[start:], "profile id", path)
        names = _unique(header[1:start], "row metadata field", path)

        obs: dict[str, list[str | None]] = {}
        for _ in range(column_fields):
            number, fields = _next(lines, path, f"{column_fields} lines of column metadata", width)
            if fields[0] in obs:
                raise ContractError(
                    f"{path}: line {number}: column metadata field '{fields[0]}' occurs twice; rename one"
                )
            obs[fields[0]] = _present(fields[start:])
        values = np.empty((rows, columns), dtype=np.float32)
        genes, metadata = [], []
        for row in range(rows):
            number, fields = _next(lines, path, f"{rows} genes", width)
            genes.append(fields[0])
            metadata.append(_present(fields[1:start]))
            values[row] = _numbers(fields[start:], fields[0], profiles, number, path)
        for number, _ in lines:
            raise ContractError(f"{path}: line {number} comes after the {rows} genes that line 2 announces; correct it")
    var = pd.DataFrame(metadata, index=pd.Index(_unique(genes, "gene id", path)), columns=names, dtype=object)
    table = pd.DataFrame({ID: profiles, **obs}, index=pd.Index(profiles), dtype=object)
    return ad.AnnData(values.T, obs=table, var=var)


@contextmanager
def _lines(path: str | Path) -> Iterator[Lines]:
    """The lines of a text file, plain or gzipped, numbered from 1, split at tabs; empty ones are left out."""
    try:
        with open_text(path) as text:
            yield ((n, line.rstrip("\r\n").split("\t")) for n, line in enumerate(text, 1) if line.strip())
    except UnicodeDecodeError as error:
        raise ContractError(f"{path}: not text in UTF-8 ({error}); convert it, for instance with iconv") from error
    except (EOFError, OSError, zlib.error) as error:
        raise ContractError(f"{path}: cannot be read ({error}); fetch it again") from error


def _next(lines: Lines, path: str | Path, wanted: str, width: int | None = None) -> tuple[int, list[str]]:
    number, fields = next(lines, (0, []))
    if not fields:
        raise ContractError(f"{path}: the file ends within {wanted}; it is cut off, or line 2 announces too much")
    if width is not None and len(fields) != width:
        raise ContractError(f"{path}: line {number} ('{fields[0]}') has {len(fields)} fields, the header has {width}")
    return number, fields


def _sizes(lines: Lines, path: str | Path) -> tuple[int, int, int, int]:
    """Rows, columns, fields of row metadata, fields of column metadata."""
    version = _next(lines, path, "the version")[1][0].strip()
    if version not in ("#1.2", "#1.3"):
        raise ContractError(
            f"{path}: the first line is '{version[:40]}', must be #1.2 or #1.3; this is no GCT file of a known version"
        )
    fields = "\t".join(_next(lines, path, "the sizes")[1]).split()
    wanted = 2 if version == "#1.2" else 4
    if len(fields) != wanted or not all(field.isdecimal() for field in fields):
        names = "rows, columns" + (", row metadata, column metadata" if wanted == 4 else "")
        raise ContractError(
            f"{path}: line 2 is '{' '.join(fields)[:60]}', must be {wanted} whole numbers for {version}: {names}"
        )
    rows, columns, *more = (int(field) for field in fields)
    return rows, columns, *(more or (1, 0))


def _unique(names: Sequence[str], what: str, path: str | Path) -> list[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ContractError(f"{path}: {what} '{name}' occurs twice; make them unique in the file")
        seen.add(name)
    return list(names)


def _present(fields: Sequence[str]) -> list[str | None]:
    return [None if field.strip() in LINCS_MISSING else field.strip() for field in fields]


def _numbers(fields: list[str], gene: str, profiles: list[str], number: int, path: str | Path) -> np.ndarray:
    try:
        values = np.array(fields, dtype=np.str_).astype(np.float32)
    except ValueError:
        values = np.array([_number(field) for field in fields], dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ContractError(
            f"{path}: line {number}: '{fields[bad[0]]}' of gene {gene} in profile {profiles[bad[0]]} is not a number; "
            "fill it in, or leave the gene or the profile out"
        )
    return values


def _number(field: str) -> float:
    try:
        return float(field)
    except ValueError:
        return np.nan
