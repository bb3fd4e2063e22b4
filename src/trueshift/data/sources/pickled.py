"""Source format ``pickled``: a row-aligned pair of pickled pandas DataFrames, treated profiles and their controls.

Read by :mod:`trueshift.data.pickles.inert`, which runs nothing of a file. An entry::

    kind: profile
    source: {format: pickled, treated: "{data}/treated.pkl", control: "{data}/control.pkl"}
    columns:
      perturbation: {from: pert_id, control: control, separator: null}
      context: cell_id
      dose: {from: pert_idose, unit: uM}
      control_id: control_id
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import anndata as ad
import numpy as np
import pandas as pd
from isal import isal_zlib

from trueshift.contract import CONTROL, ContractError
from trueshift.data.canonical.columns import number_text
from trueshift.data.options import choices
from trueshift.data.pickles import frame_rows
from trueshift.data.pickles.frame_rows import Chunks, ahead
from trueshift.data.pickles.inert import Frame, read_frame
from trueshift.data.pickles.once import Once
from trueshift.values import Writer, is_large

FILES = ("treated", "control")
METADATA = ("sig_id", "idx", "pert_id", "cell_id", "pert_idose", "smiles")
ALIGNED = ("sig_id", "idx", "cell_id")  # equal in row i of both files


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
    column = table.column(name)
    return [x.strip() if type(x) is str else "" if x is None or x != x else number_text(x) for x in column]


class _Table:
    """Rows in memory, where :class:`trueshift.values.Writer` has them in a file. Rows never written take no memory."""

    def __init__(self, rows: int, columns: int) -> None:
        self.values = np.empty((rows, columns), dtype=np.float32)

    def put(self, start: int, rows: np.ndarray) -> None:
        self.values[start : start + len(rows)] = rows

    def row(self, number: int) -> np.ndarray:
        return self.values[number]

    def table(self, obs: pd.DataFrame, var: pd.DataFrame) -> ad.AnnData:
        return ad.AnnData(self.values[: len(obs)], obs=obs, var=var)


@dataclass
class _Side:
    """What one file of the pair says beside its values: ``text`` of the aligned columns, the ``others`` as they are."""

    file: Once
    rows: int
    genes: list[str]
    text: dict[str, list[str]]
    others: dict[str, np.ndarray]
    by_row: bool
    _table: Frame | None

    @property
    def path(self) -> Path:
        return self.file.path

    @classmethod
    def of(cls, file: Once, columns: tuple[str, ...]) -> "_Side":
        table = read_frame(file.path)
        _require(table, columns)
        genes, text = _genes(table), {name: _labels(table, name) for name in ALIGNED}
        others = {name: table.column(name) for name in columns if name not in ALIGNED}
        by_row = frame_rows.lies_by_row(table, genes)
        return cls(file, table.rows, genes, text, others, by_row, table if table.in_file else None)

    def chunks(self, genes: list[str], room: list[np.ndarray], keep: bool) -> Chunks:
        """As :func:`frame_rows.chunks`, once. Values not in the file are read anew: those of two may be too much."""
        table, self._table = self._table or read_frame(self.path), None
        yield from ahead(frame_rows.chunks(table, genes, self.text["sig_id"], self.file, room, keep))


def _put_controls(side: _Side, chunks: Chunks, store: _Table | Writer) -> tuple[np.ndarray, list[int]]:
    """Puts the distinct rows behind as many as the file has, the place of the treated.

    Returns the number of the distinct one of each row of the file, and the first row of each distinct one.
    """
    which = np.empty(side.rows, dtype=np.int64)
    known: dict[tuple[str, int], list[int]] = {}
    first: list[int] = []
    for start, chunk in chunks:
        for i, row in enumerate(chunk):
            # the same profile under two cell lines is two controls: effects need one of their own context
            alike = known.setdefault((side.text["cell_id"][start + i], isal_zlib.crc32(row)), [])
            same = next((n for n in alike if np.array_equal(store.row(side.rows + n), row)), None)
            if same is None:
                same = len(first)
                alike.append(same)
                first.append(start + i)
                store.put(side.rows + same, row[None])
            which[start + i] = same
    return which, first


def _put_treated(chunks: Chunks, store: _Table | Writer, stop: Event) -> None:
    with closing(chunks):  # nothing reads on when this is over: the checksum may be asked for
        for start, chunk in chunks:
            if stop.is_set():
                return
            store.put(start, chunk)


def _put(treated: _Side, controls: _Side, store: _Table | Writer) -> tuple[np.ndarray, list[int]]:
    """Puts both; side by side if they lie by row. Otherwise each is in memory while it is read: not two."""
    genes, by_row = controls.genes, treated.by_row and controls.by_row
    room = [] if by_row else frame_rows.strips(len(genes), treated.rows)
    stop = Event()
    with ThreadPoolExecutor(1) as pool:
        rest = treated.chunks(genes, room, keep=False), store, stop
        beside = pool.submit(_put_treated, *rest) if by_row else None
        try:
            found = _put_controls(controls, controls.chunks(genes, room, keep=True), store)
            (beside or pool.submit(_put_treated, *rest)).result()
        finally:
            stop.set()
    return found


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

    Memory: what is returned, and chunks; values stay in the files until they are converted. Where ``values`` is given,
    large tables are written there chunk by chunk (:mod:`trueshift.values`), and memory is that of metadata and chunks.
    Metadata are read, and all but values is checked, before the first value is.
    Values that pandas holds column by column, or in several blocks, take 4 bytes each besides, for one file at a time,
    and a file of protocol 2 or older, in which values are text, up to three times its size.

    Raises :class:`ContractError` on a pickle that names anything but what such a frame needs (nothing of a file is
    ever run), a damaged file, rows or genes of the two that do not match, a column that lacks, a ``sig_id`` that
    occurs twice, and on gene values that are not finite numbers.
    """
    with Once(treated) as one, Once(control) as other:
        return _joined(_Side.of(one, METADATA), _Side.of(other, ALIGNED), log, values)


def _joined(of_treated: "_Side", of_control: "_Side", log: Callable[[str], None], values: Path | None) -> ad.AnnData:
    _check_ids(of_treated)
    _check_pair(of_treated, of_control)
    n, genes = of_treated.rows, of_control.genes
    room = 2 * n, len(genes)
    store = Writer(values, *room) if values and is_large(n, len(genes)) else _Table(*room)
    which, first = _put(of_treated, of_control, store)

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
