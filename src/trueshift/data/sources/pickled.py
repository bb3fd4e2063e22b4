"""Source format ``pickled``: a row-aligned pair of pickled pandas DataFrames, treated profiles and their controls.

Read by :mod:`trueshift.data.sources.inert`, which runs nothing of a file.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift.contract import CONTROL, ContractError
from trueshift.data.sources.columns import number_text
from trueshift.data.sources.inert import Frame, read_frame
from trueshift.data.sources.messages import choices

METADATA = ("sig_id", "idx", "pert_id", "cell_id", "pert_idose", "smiles")
ALIGNED = ("sig_id", "idx", "cell_id")  # equal in row i of both files
CHUNK = 1 << 22  # values converted together


# --- what the pair must hold --------------------------------------------------------------------------


def _require(table: Frame, columns: tuple[str, ...]) -> None:
    for name in columns:
        if name not in table.names:
            raise ContractError(f"{table.path}: no column '{name}'; {choices(name, table.names)}")


def _genes(table: Frame) -> list[str]:
    """The names of the gene columns: all but the metadata. One that is not of numbers is refused by name."""
    genes = [name for name in table.names if name not in METADATA]
    if not genes:
        raise ContractError(f"{table.path}: no gene columns; there are only {', '.join(table.names)}")
    if not table.rows:
        raise ContractError(f"{table.path}: no rows")
    for places, values in table.blocks:
        if values.dtype.kind in "fiub":
            continue
        for row, place in enumerate(places):
            if table.names[place] not in METADATA:
                raise ContractError(
                    f"{table.path}: gene column '{table.names[place]}' is not numeric (such as "
                    f"{str(values[row, 0])[:40]!a}); remove it, or make it numeric"
                )
    return genes


def _labels(table: Frame, name: str) -> list[str]:
    """A column as text, "" where there is none."""
    return ["" if value is None or value != value else number_text(value) for value in table.column(name)]


def _float32(
    table: Frame, genes: list[str], ids: list[str], target: Callable[[int, int], np.ndarray]
) -> Iterator[tuple[int, np.ndarray]]:
    """Converts the genes chunk by chunk into what ``target(start, stop)`` gives, shape (rows, genes); yields it.

    Raises :class:`ContractError` at the first value that is NaN or infinite, naming gene and row.
    """
    column_of = {name: column for column, name in enumerate(genes)}
    plan: list[tuple[np.ndarray, Any, Any]] = []
    for places, values in table.blocks:
        wanted = [(row, column_of[table.names[at]]) for row, at in enumerate(places) if table.names[at] in column_of]
        if wanted:
            rows, columns = (_span(np.array(x)) for x in zip(*wanted, strict=True))
            plan.append((values, rows, columns))
    step = max(1, CHUNK // len(genes))
    for start in range(0, table.rows, step):
        stop = min(start + step, table.rows)
        chunk = target(start, stop)
        with np.errstate(over="ignore"):
            for values, rows, columns in plan:
                chunk[:, columns] = values[rows, start:stop].T
        bad = ~np.isfinite(chunk)
        if bad.any():
            row, column = (int(x[0]) for x in np.nonzero(bad))
            raise ContractError(
                f"{table.path}: gene '{genes[column]}' is NaN or infinite in row {start + row} (sig_id "
                f"{ids[start + row]}); fill such values in or remove the row from both files"
            )
        yield start, chunk


def _span(places: np.ndarray) -> Any:
    """Places as a slice where they follow one another: that is read in place, not copied."""
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if np.array_equal(places, np.arange(first, last + 1)) else places


@dataclass
class _Controls:
    """Distinct control rows in the order they occur; ``which`` is the one of each row of the file, ``first`` reverse.

    ``values`` has room for all rows of the file; what lies behind the distinct ones was never touched and takes no
    memory.
    """

    genes: list[str]
    aligned: dict[str, list[str]]
    values: np.ndarray
    which: np.ndarray
    first: list[int]


def _controls(path: str | Path) -> _Controls:
    table = read_frame(path)
    _require(table, ALIGNED)
    genes, aligned = _genes(table), {name: _labels(table, name) for name in ALIGNED}
    values = np.empty((table.rows, len(genes)), dtype=np.float32)
    which = np.empty(table.rows, dtype=np.int64)
    number: dict[tuple[str, bytes], int] = {}
    first: list[int] = []
    # a chunk lands behind the distinct rows found so far, then its new rows close up
    for start, chunk in _float32(table, genes, aligned["sig_id"], lambda a, b: values[len(first) : len(first) + b - a]):
        before, new = len(first), []
        for i, row in enumerate(chunk):
            # the same profile under two cell lines is two controls: effects need one of their own context
            key = (aligned["cell_id"][start + i], hashlib.blake2b(row, digest_size=16).digest())
            if key not in number:
                number[key] = len(first)
                first.append(start + i)
                new.append(i)
            which[start + i] = number[key]
        if len(new) < len(chunk):
            values[before : len(first)] = chunk[new]
    return _Controls(genes, aligned, values, which, first)


def _check_pair(treated: Frame, control: str | Path, aligned: dict[str, list[str]], controls: _Controls) -> None:
    for name in ALIGNED:
        pairs = enumerate(zip(aligned[name], controls.aligned[name], strict=False))
        row = next((row for row, (one, other) in pairs if one != other), None)
        if row is not None:
            raise ContractError(
                f"{control}: row {row} does not belong to row {row} of {treated.path}: {name} is "
                f"'{controls.aligned[name][row]}' here and '{aligned[name][row]}' there; write both in one order"
            )
    if treated.rows != len(controls.which):
        row = min(treated.rows, len(controls.which))
        raise ContractError(
            f"{control}: {len(controls.which)} rows, but {treated.path} has {treated.rows}; row i of one belongs to "
            f"row i of the other, and row {row} has no partner"
        )
    one, other = set(_genes(treated)), set(controls.genes)
    if one != other:
        lone = min(one ^ other)
        raise ContractError(f"{control}: gene '{lone}' is in only one of this and {treated.path}; write the same genes")


def read(
    treated: str | Path,
    control: str | Path,
    log: Callable[[str], None] = print,
) -> ad.AnnData:
    """Reads a pair of pickled DataFrames, row i of ``control`` being the control of row i of ``treated``.

    Both have the columns ``sig_id``, ``idx``, ``cell_id`` (equal row by row) and one column of numbers for each gene;
    ``treated`` also ``pert_id``, ``pert_idose``, ``smiles``. This is the layout in which PDGrapher's LINCS profiles are
    passed on (doi:10.1038/s41551-025-01481-x).

    Returns (treated rows, then distinct controls) × genes, CSR float32. Control rows that are the same to the bit in
    one cell line are stored once. obs: the columns of ``treated`` as they are (``idx`` as text), ``is_control``, and
    ``control_id``, the name of a treated row's control. A control has the name of the first treated row it belongs to
    with ``/control`` behind it, ``pert_id`` control, ``pert_idose`` 0 (a filter on doses passes it), no ``idx`` and no
    SMILES.

    Memory, of n treated rows, d distinct controls, g genes and values of f bytes in the files: the peak is the larger
    of (f + 4)·n·g + 4·d·g bytes, while treated values become float32, and 8·(n + d)·g, the result (12 in place of 8
    from 2³¹ values on). One file is in memory at a time. Files of protocol 2 take about twice f.

    Raises :class:`ContractError` on a pickle that names anything but what such a frame needs (nothing of a file is
    ever run), a damaged file, rows or genes of the two that do not match, a column that lacks, a ``sig_id`` that
    occurs twice, and on gene values that are not finite numbers.
    """
    controls = _controls(control)
    table = read_frame(treated)
    _require(table, METADATA)
    _genes(table)
    aligned = {name: _labels(table, name) for name in ALIGNED}
    ids = aligned["sig_id"]
    _check_ids(table, ids)
    _check_pair(table, control, aligned, controls)
    source = {name: table.column(name) for name in METADATA if name not in ALIGNED}
    if CONTROL in source["pert_id"]:
        raise ContractError(f"{treated}: pert_id is '{CONTROL}' in a treated row; that is what controls are named here")

    n, d, g = table.rows, len(controls.first), len(controls.genes)
    values = np.empty((n + d, g), dtype=np.float32)
    values[n:] = controls.values[:d]
    controls.values = values[n:]  # the first copy goes before treated values come
    for _ in _float32(table, controls.genes, ids, lambda start, stop: values[start:stop]):
        pass
    del table

    names = [f"{ids[row]}/control" for row in controls.first]
    obs = pd.DataFrame(index=pd.Index(ids + names))
    obs["sig_id"] = ids + names
    obs["idx"] = aligned["idx"] + [""] * d
    obs["pert_id"] = [*source["pert_id"], *[CONTROL] * d]
    obs["cell_id"] = aligned["cell_id"] + [aligned["cell_id"][row] for row in controls.first]
    for name, none in (("pert_idose", "0"), ("smiles", None)):
        obs[name] = pd.Series([*source[name], *[none] * d], index=obs.index, dtype=object)
    obs["control_id"] = [names[i] for i in controls.which] + [""] * d
    obs["is_control"] = np.arange(n + d) >= n
    log(f"{n} treated profiles with {d} distinct controls, {g} genes")
    return ad.AnnData(_csr(values), obs=obs, var=pd.DataFrame(index=pd.Index(controls.genes)))


def _check_ids(table: Frame, ids: list[str]) -> None:
    if "" in ids:
        raise ContractError(f"{table.path}: row {ids.index('')} has no sig_id; give every row its own")
    again = pd.Index(ids).duplicated()
    if again.any():
        row = int(np.flatnonzero(again)[0])
        raise ContractError(
            f"{table.path}: sig_id {ids[row]} occurs more than once (rows {ids.index(ids[row])} and {row}; "
            f"{again.sum()} such rows); give every row its own"
        )


def _csr(values: np.ndarray) -> sparse.csr_matrix:
    """CSR over the memory of a dense array, which it takes: no second copy of the values."""
    rows, columns = values.shape
    index = np.int32 if values.size < 1 << 31 else np.int64
    indices = np.tile(np.arange(columns, dtype=index), rows)
    starts = np.arange(rows + 1, dtype=index) * columns
    matrix = sparse.csr_matrix((values.reshape(-1), indices, starts), shape=values.shape)
    matrix.has_canonical_format = True
    matrix.eliminate_zeros()
    return matrix
