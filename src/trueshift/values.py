"""Large dense tables, written once: a file of values beside an artefact, and the rows and columns it takes of them.

Profiles have no zeros to leave out, so a table of them is as large in every stage as in its source. From ``LARGE``
bytes on it is written once, row by row, into a hidden file (``.imported.h5ad.values`` beside ``imported.h5ad``):
float32, little-endian, nothing else. Later stages link to that file (a hard link: no byte is copied, and it stays for
as long as one of them is there), and their artefacts say which rows and columns of it are theirs. The CRC-32 of every
row is in the artefact and is checked whenever the row is read.

In memory such data are an AnnData without X: ``obsm["row_of_values"]`` (N, 1) and ``varm["column_of_values"]`` (G, 1)
are the masks, so that a part of it is a part of them; ``uns["values"]`` says which file. :func:`blocks` goes through
the values of any AnnData, be they apart or not; models and evaluation get them whole, in X.
"""

import mmap
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import anndata as ad
import numpy as np
import pandas as pd
from isal import isal_zlib
from scipy import sparse

from trueshift.files import ContractError, values_of
from trueshift.kinds import is_dense

LARGE = 1 << 29  # bytes
BLOCK = 1 << 24  # bytes looked at together
APART, ROWS, COLUMNS = "values", "row_of_values", "column_of_values"
FLOAT = np.dtype("<f4")


class Writer:
    """Writes a table of at most so many rows and columns into a file, rows in any order, with the CRC-32 of each."""

    def __init__(self, path: Path, rows: int, columns: int) -> None:
        self.path, self._row = path, columns * FLOAT.itemsize
        self._crc32 = np.zeros(rows, dtype=np.uint32)
        self._file = path.open("wb", buffering=0)
        self._file.truncate(rows * self._row)  # takes no room on the disk before it is written

    def put(self, start: int, rows: np.ndarray) -> None:
        """Writes finite float32 rows without negative zeros, (n, columns), as rows ``start`` and following."""
        rows = np.ascontiguousarray(rows, dtype=FLOAT)
        stop = start + len(rows)
        self._crc32[start:stop] = [isal_zlib.crc32(row) for row in rows]
        data, at = rows.data.cast("B"), start * self._row
        while data:
            written = os.pwrite(self._file.fileno(), data, at)
            data, at = data[written:], at + written

    def table(self, obs: pd.DataFrame, var: pd.DataFrame) -> ad.AnnData:
        """The rows that ``obs`` is of, all of them written, as data whose values are apart."""
        self._file.truncate(len(obs) * self._row)
        adata = ad.AnnData(obs=obs, var=var)
        crc32 = self._crc32[: len(obs)]
        adata.uns[APART] = {"file": str(self.path), "shape": np.array(adata.shape), "crc32": crc32}
        adata.obsm[ROWS] = np.arange(adata.n_obs)[:, None]
        adata.varm[COLUMNS] = np.arange(adata.n_vars)[:, None]
        return adata


@contextmanager
def scratch(path: str | Path) -> Iterator[Path]:
    """A file beside the artefact ``path`` for values that are read before it can be written; removed at the end."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}.scratch")
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def are_apart(adata: ad.AnnData) -> bool:
    """Whether the values of these data are in a file, not in X."""
    return ROWS in adata.obsm


def blocks(adata: ad.AnnData, rows: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, Any]]:
    """The values of some rows (all by default) in parts: their places among ``rows``, (n,), and values, (n, G).

    Dense values come in parts of ``BLOCK`` bytes or a little less, not to be changed; a sparse matrix comes whole.
    Raises :class:`ContractError` if values that are apart are missing or damaged.
    """
    if are_apart(adata):
        yield from _blocks_of_file(adata, rows)
    elif sparse.issparse(adata.X):
        matrix = adata.X if rows is None else adata.X[rows]
        yield np.arange(matrix.shape[0]), matrix
    else:
        n, step = adata.n_obs if rows is None else len(rows), _step(adata.n_vars)
        for start in range(0, n, step):
            places = np.arange(start, min(start + step, n))
            yield places, adata.X[start : start + step] if rows is None else adata.X[rows[places]]


def matrix_of(adata: ad.AnnData, rows: np.ndarray | None = None) -> Any:
    """The values of some rows (all by default) in memory, (n, G): X as it is, or float32 of a file."""
    if not are_apart(adata):
        return adata.X if rows is None else adata.X[rows]
    result = np.empty((adata.n_obs if rows is None else len(rows), adata.n_vars), dtype=np.float32)
    for places, values in blocks(adata, rows):
        result[places] = values
    return result


def in_memory(adata: ad.AnnData) -> ad.AnnData:
    """The same data as any other AnnData: values in X."""
    rest = {name: value for name, value in adata.uns.items() if name != APART}
    return ad.AnnData(
        matrix_of(adata),
        obs=adata.obs,
        var=adata.var,
        uns=rest,
        obsm={name: value for name, value in adata.obsm.items() if name != ROWS},
        varm={name: value for name, value in adata.varm.items() if name != COLUMNS},
    )


def part(
    adata: ad.AnnData,
    rows: np.ndarray,
    columns: np.ndarray,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    uns: dict[str, Any] | None = None,
) -> ad.AnnData:
    """The values of some rows and columns of data that are apart, under another obs, var and uns."""
    taken = ad.AnnData(obs=obs, var=var, uns=uns)
    taken.uns[APART] = dict(adata.uns[APART])
    taken.obsm[ROWS] = np.asarray(adata.obsm[ROWS])[rows]
    taken.varm[COLUMNS] = np.asarray(adata.varm[COLUMNS])[columns]
    return taken


def file_rows(adata: ad.AnnData) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """Of data whose values are apart: the file, the rows and the columns of it, and the CRC-32 of every row of it."""
    values = adata.uns[APART]
    rows, columns = (np.asarray(masks).ravel() for masks in (adata.obsm[ROWS], adata.varm[COLUMNS]))
    return str(values["file"]), rows, columns, np.asarray(values["crc32"])


def has_all_columns(adata: ad.AnnData) -> bool:
    """Whether data whose values are apart take all columns of the file, in order."""
    return np.array_equal(np.asarray(adata.varm[COLUMNS]).ravel(), np.arange(adata.uns[APART]["shape"][1]))


def all_finite(array: np.ndarray) -> bool:
    """Whether no value is NaN or infinite. Then nor is their sum, most often, and it takes no array of answers."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def is_large(rows: int, columns: int) -> bool:
    """Whether a dense table of this size is to be kept apart."""
    return rows * columns * FLOAT.itemsize >= LARGE


def wants_file(adata: ad.AnnData) -> bool:
    """Whether values in X are dense and so large that they are to be written apart."""
    kind = dict(adata.uns.get("trueshift", {})).get("kind")
    return is_dense(kind) and isinstance(adata.X, np.ndarray) and not adata.layers and is_large(*adata.shape)


@contextmanager
def beside(adata: ad.AnnData, path: Path, temporary: Path) -> Iterator[ad.AnnData]:
    """Puts the values of ``adata``, about to be written to ``temporary`` and renamed to ``path``, beside it.

    Yields what is to be written: without values if they are apart, otherwise as it is.
    """
    values = temporary.with_name(f"{temporary.name}.values")
    try:
        if wants_file(adata) and not are_apart(adata):
            writer = Writer(values, adata.n_obs, adata.n_vars)
            for places, rows in blocks(adata):
                writer.put(int(places[0]), rows + np.float32(0))  # no negative zero: equal rows have equal bytes
            table = writer.table(adata.obs, adata.var)
            table.uns.update(dict(adata.uns))
        elif are_apart(adata):
            _link(Path(file_rows(adata)[0]), values)
            table = adata.copy()
        else:
            yield adata
            values_of(path).unlink(missing_ok=True)
            return
        table.uns[APART] = {name: table.uns[APART][name] for name in ("shape", "crc32")}
        yield table
        values.replace(values_of(path))
    finally:
        values.unlink(missing_ok=True)


def find(adata: ad.AnnData, path: str | Path) -> None:
    """Notes in data just read from ``path`` where their values are, if these are apart."""
    if are_apart(adata):
        adata.uns[APART]["file"] = str(values_of(path))


def _link(source: Path, target: Path) -> None:
    _present(source)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _present(file: Path) -> None:
    if not file.exists():
        raise ContractError(f"{file}: no such file; it holds the values of the file beside it: delete that too")


def _step(columns: int) -> int:
    return max(1, BLOCK // max(1, columns * FLOAT.itemsize))


def _blocks_of_file(adata: ad.AnnData, rows: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    file, of_file, columns, crc32 = file_rows(adata)
    shape = tuple(int(n) for n in adata.uns[APART]["shape"])
    wanted = of_file if rows is None else of_file[rows]
    every_column = has_all_columns(adata)
    order = np.argsort(wanted, kind="stable")
    step = _step(shape[1])
    cuts = np.searchsorted(wanted[order], np.arange(0, shape[0] + step, step))
    parts = [order[a:b] for a, b in pairwise(cuts) if a < b]  # in the order of the file
    with _Mapped(Path(file), shape) as mapped, ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(mapped.check, wanted[places], crc32) for places in parts[:1]]  # the disk works meanwhile
        for places, following in zip(parts, [*parts, None][1:], strict=True):
            ahead.pop().result()
            if following is not None:
                ahead.append(pool.submit(mapped.check, wanted[following], crc32))
            some = wanted[places]
            low, high = int(some[0]), int(some[-1]) + 1
            whole = high - low == len(some) and bool((np.diff(some) == 1).all())
            values = mapped.table[low:high] if whole else mapped.table[some]
            yield places, values if every_column else values[:, columns]
            del values
            mapped.forget(low, high)


class _Mapped:
    """A file of values as an array: pages come as they are looked at, and go when they are no longer needed."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        _present(path)
        if path.stat().st_size != shape[0] * shape[1] * FLOAT.itemsize:
            raise ContractError(f"{path}: damaged: not of the size it was written in; delete it and the file beside it")
        self.path, self._row = path, shape[1] * FLOAT.itemsize
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._map.madvise(mmap.MADV_SEQUENTIAL)
        self.table = np.frombuffer(self._map, FLOAT).reshape(shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        del self.table  # the map closes with the last view of it

    def forget(self, start: int, stop: int) -> None:
        """Takes no memory any more for rows that were looked at."""
        first = start * self._row // mmap.PAGESIZE * mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, first, stop * self._row - first)

    def check(self, rows: np.ndarray, crc32: np.ndarray) -> None:
        for row in rows:
            if isal_zlib.crc32(self.table[row]) != crc32[row]:
                raise ContractError(
                    f"{self.path}: damaged: row {row} is not what was written there; delete it and the file beside it "
                    "so that they are made again"
                )
