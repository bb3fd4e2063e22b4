"""Source format ``pickled``: a row-aligned pair of pickled pandas DataFrames, treated profiles and their controls.

Read by :mod:`trueshift.data.pickles.tables`, which runs nothing of a file. An entry::

    kind: profile
    source: {format: pickled, treated: "{data}/treated.pkl", control: "{data}/control.pkl"}
    columns:
      perturbation: {from: pert_id, control: control, separator: null}
      context: cell_id
      dose: {from: pert_idose, unit: uM}
      control_id: control_id
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from trueshift.contract import CONTROL, ContractError
from trueshift.data.canonical.columns import number_text
from trueshift.data.options import choices
from trueshift.data.pickles.tables import Table, read_table
from trueshift.values import Writer, all_finite, is_large

FILES = ("treated", "control")
METADATA = ("sig_id", "idx", "pert_id", "cell_id", "pert_idose", "smiles")
ALIGNED = ("sig_id", "idx", "cell_id")  # equal in row i of both files
ROWS = 512  # converted together: few enough that both what is read and what is written stay in the caches of a CPU


@dataclass
class _Side:
    """What one file of the pair says beside its values: ``text`` of the aligned columns, the ``others`` as they are."""

    path: Path
    rows: int
    genes: list[str]
    text: dict[str, list[str]]
    others: dict[str, np.ndarray]


def _side(table: Table, wanted: tuple[str, ...]) -> _Side:
    """Takes the metadata of a table. Raises :class:`ContractError` if a column lacks, or a gene is not of numbers."""
    path, columns = table.path, table.columns
    for name in wanted:
        if name not in columns:
            raise ContractError(f"{path}: no column '{name}'; {choices(name, list(columns))}")
    genes = [name for name in columns if name not in METADATA]
    if not genes:
        raise ContractError(f"{path}: no gene columns; there are only {', '.join(columns)}")
    if not table.rows:
        raise ContractError(f"{path}: no rows")
    for name in genes:
        if columns[name].dtype.kind not in "fiub":
            raise ContractError(
                f"{path}: gene column '{name}' is not numeric (such as {str(columns[name][0])[:40]!a}); remove it, or "
                "make it numeric"
            )
    text = {name: [_label(value) for value in columns[name].astype(object)] for name in ALIGNED}
    others = {name: columns[name].astype(object) for name in wanted if name not in ALIGNED}
    return _Side(path, table.rows, genes, text, others)


def _label(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    return "" if value is None or value != value else number_text(value)


def _chunks(table: Table, genes: list[str], ids: list[str]) -> Iterator[tuple[int, np.ndarray]]:
    """The genes chunk by chunk: the first row of each, and its values, float32, (rows, genes).

    A negative zero becomes zero. Raises :class:`ContractError` at a value that is NaN or infinite.
    """
    columns = [table.columns[gene] for gene in genes]
    for start in range(0, table.rows, ROWS):
        chunk = np.empty((min(ROWS, table.rows - start), len(genes)), dtype=np.float32)
        with np.errstate(over="ignore"):
            for place, column in enumerate(columns):
                chunk[:, place] = column[start : start + ROWS]
        chunk += np.float32(0)
        if not all_finite(chunk):
            row, place = (int(x[0]) for x in np.nonzero(~np.isfinite(chunk)))
            raise ContractError(
                f"{table.path}: gene '{genes[place]}' is NaN or infinite in row {start + row} (sig_id "
                f"{ids[start + row]}); fill such values in or remove the row from both files"
            )
        yield start, chunk


class _Table:
    """Rows in memory, where :class:`trueshift.values.Writer` has them in a file. Rows never written take no memory."""

    def __init__(self, rows: int, columns: int) -> None:
        self.values = np.empty((rows, columns), dtype=np.float32)

    def put(self, start: int, rows: np.ndarray) -> None:
        self.values[start : start + len(rows)] = rows

    def table(self, obs: pd.DataFrame, var: pd.DataFrame) -> ad.AnnData:
        return ad.AnnData(self.values[: len(obs)], obs=obs, var=var)


def _put_controls(side: _Side, table: Table, store: _Table | Writer) -> tuple[np.ndarray, list[int]]:
    """Puts the distinct rows behind as many as the file has, the place of the treated.

    Returns the number of the distinct one of each row of the file, and the first row of each distinct one.
    """
    which = np.empty(side.rows, dtype=np.int64)
    known: dict[tuple[str, bytes], int] = {}
    first: list[int] = []
    for start, chunk in _chunks(table, side.genes, side.text["sig_id"]):
        for row, values in enumerate(chunk, start):
            # the same profile under two cell lines is two controls: effects need one of their own context
            key = side.text["cell_id"][row], hashlib.blake2b(values, digest_size=16).digest()
            if key not in known:
                known[key] = len(first)
                store.put(side.rows + len(first), values[None])
                first.append(row)
            which[row] = known[key]
    return which, first


def _check_pair(treated: _Side, controls: _Side) -> None:
    for name in ALIGNED:
        pairs = enumerate(zip(treated.text[name], controls.text[name], strict=False))
        row = next((row for row, (one, other) in pairs if one != other), None)
        if row is not None:
            raise ContractError(
                f"{controls.path}: row {row} does not belong to row {row} of {treated.path}: {name} is "
                f"'{controls.text[name][row]}' here and '{treated.text[name][row]}' there; write both in one order"
            )
    if treated.rows != controls.rows:
        row = min(treated.rows, controls.rows)
        raise ContractError(
            f"{controls.path}: {controls.rows} rows, but {treated.path} has {treated.rows}; row i of one belongs to "
            f"row i of the other, and row {row} has no partner"
        )
    one, other = set(treated.genes), set(controls.genes)
    if one != other:
        lone = min(one ^ other)
        raise ContractError(
            f"{controls.path}: gene '{lone}' is in only one of this and {treated.path}; write the same genes"
        )
    if CONTROL in treated.others["pert_id"]:
        raise ContractError(
            f"{treated.path}: pert_id is '{CONTROL}' in a treated row; that is what controls are named here"
        )


def read(
    treated: str | Path,
    control: str | Path,
    log: Callable[[str], None] = print,
    values: Path | None = None,
) -> ad.AnnData:
    """Reads a pair of pickled DataFrames, row i of ``control`` being the control of row i of ``treated``.

    - ``treated``: The table of treated profiles.
    - ``control``: The table of their controls, row by row.

    Both have the columns ``sig_id``, ``idx``, ``cell_id`` (equal row by row) and one column of numbers for each gene;
    ``treated`` also ``pert_id``, ``pert_idose``, ``smiles``. This is the layout in which PDGrapher's LINCS profiles are
    passed on (doi:10.1038/s41551-025-01481-x).

    Returns (treated rows, then distinct controls) × genes, float32, dense. Control rows that are equal in one cell line
    are stored once. obs: the columns of ``treated`` as they are (``idx`` as text), ``is_control``, and ``control_id``,
    the name of a treated row's control. A control has the name of the first treated row it belongs to with ``/control``
    behind it, ``pert_id`` control, ``pert_idose`` 0 (a filter on doses passes it), no ``idx`` and no SMILES.

    Memory: twice the bytes of one file, then one file and what is returned. Where ``values`` is given, a large table is
    written there chunk by chunk (:mod:`trueshift.values`), so that memory is that of one file. A file of protocol 2 or
    older, in which values are text, takes up to three times its size.

    Raises :class:`ContractError` on a pickle that names anything but what such a frame needs (nothing of a file is
    ever run), a damaged file, rows or genes of the two that do not match, a column that lacks, a ``sig_id`` that
    occurs twice, and on gene values that are not finite numbers.
    """
    table = read_table(control)
    controls = _side(table, ALIGNED)
    n, genes = controls.rows, controls.genes
    room = 2 * n, len(genes)
    store = Writer(values, *room) if values and is_large(n, len(genes)) else _Table(*room)
    which, first = _put_controls(controls, table, store)
    del table  # before the other file is read

    table = read_table(treated)
    of_treated = _side(table, METADATA)
    _check_ids(of_treated)
    _check_pair(of_treated, controls)
    for start, chunk in _chunks(table, genes, of_treated.text["sig_id"]):
        store.put(start, chunk)
    del table

    ids, d = of_treated.text["sig_id"], len(first)
    names = [f"{ids[row]}/control" for row in first]
    obs = pd.DataFrame(index=pd.Index(ids + names))
    obs["sig_id"] = ids + names
    obs["idx"] = of_treated.text["idx"] + [""] * d
    obs["pert_id"] = [*of_treated.others["pert_id"], *[CONTROL] * d]
    lines = of_treated.text["cell_id"]
    obs["cell_id"] = lines + [lines[row] for row in first]
    for name, none in (("pert_idose", "0"), ("smiles", None)):
        obs[name] = pd.Series([*of_treated.others[name], *[none] * d], index=obs.index, dtype=object)
    obs["control_id"] = [names[i] for i in which] + [""] * d
    obs["is_control"] = np.arange(n + d) >= n
    log(f"{n} treated profiles with {d} distinct controls, {len(genes)} genes")
    return store.table(obs, pd.DataFrame(index=pd.Index(genes)))


def _check_ids(treated: _Side) -> None:
    path, ids = treated.path, treated.text["sig_id"]
    if "" in ids:
        raise ContractError(f"{path}: row {ids.index('')} has no sig_id; give every row its own")
    again = pd.Index(ids).duplicated()
    if again.any():
        row = int(np.flatnonzero(again)[0])
        raise ContractError(
            f"{path}: sig_id {ids[row]} occurs more than once (rows {ids.index(ids[row])} and {row}; "
            f"{again.sum()} such rows); give every row its own"
        )
