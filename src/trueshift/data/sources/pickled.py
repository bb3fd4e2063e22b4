"""Source format ``pickled``: a row-aligned pair of pickled pandas DataFrames, treated profiles and their controls.

Unpickling runs what a file says, so nothing is unpickled in that sense. :class:`_Reader` admits a short list of names
that a DataFrame of NumPy arrays is written with and puts in the place of each an inert :class:`_Part`: a note of what
was to be called with what. No function or class that a file names is imported or called, pandas and NumPy included.
When the whole file is read, :func:`_table` takes text and arrays out of the notes, checking what it finds; anything of
another form is refused, text in PyArrow arrays too (what pandas 3 writes where PyArrow is installed). So the pandas
that wrote a file and the one that is installed need not be alike: tried with files of pandas 1.5, 2.3 and 3.1,
NumPy 1 and 2, pickle protocols 2 to 5.
"""

import hashlib
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift.contract import CONTROL, ContractError
from trueshift.data.sources.columns import number_text
from trueshift.data.sources.messages import choices

METADATA = ("sig_id", "idx", "pert_id", "cell_id", "pert_idose", "smiles")
ALIGNED = ("sig_id", "idx", "cell_id")  # equal in row i of both files
CHUNK = 1 << 22  # values converted together

# Every name that a file may hold, by what it stands for. None is imported or called: each becomes an inert note, so
# none can do harm whatever it is called with, nested in what, or given as state. The list is short all the same, so
# that a file of another kind is told apart at its first name.
ADMITTED = {
    # the frame and what holds its blocks; the short names are those of pandas 3
    ("pandas.core.frame", "DataFrame"): "frame",
    ("pandas", "DataFrame"): "frame",
    ("pandas.core.internals.managers", "BlockManager"): "manager",
    ("pandas._libs.internals", "_unpickle_block"): "block",
    # where a block's columns are: slice(start, stop, step); only its three numbers are read
    ("builtins", "slice"): "slice",
    ("__builtin__", "slice"): "slice",  # as protocol 2 writes it
    # names of columns and rows
    ("pandas.core.indexes.base", "_new_Index"): "index",
    ("pandas.core.indexes.base", "Index"): "kind of index",
    ("pandas", "Index"): "kind of index",
    ("pandas.core.indexes.range", "RangeIndex"): "kind of index",
    ("pandas", "RangeIndex"): "kind of index",
    ("pandas.core.indexes.numeric", "Int64Index"): "kind of index",
    # arrays: raw bytes or, of objects, a list whose items pass the same gate
    **{(f"numpy.{core}.multiarray", "_reconstruct"): "array" for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "buffer" for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): "scalar" for core in ("core", "_core")},
    ("numpy", "ndarray"): "kind of array",
    ("numpy", "dtype"): "dtype",
    # the bytes of an array in protocol 2, written as text; only latin-1 is decoded
    ("_codecs", "encode"): "bytes",
    # text and categories in pandas' own arrays over NumPy ones
    ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"): "backed",
    ("pandas.core.arrays.categorical", "Categorical"): "categorical",
    ("pandas", "Categorical"): "categorical",
    ("pandas.core.dtypes.dtypes", "CategoricalDtype"): "categories",
    ("pandas", "CategoricalDtype"): "categories",
    ("pandas.core.arrays.string_", "StringArray"): "text",
    ("pandas.arrays", "StringArray"): "text",
    ("pandas.core.arrays.string_", "StringDtype"): "kind of text",
    ("pandas", "StringDtype"): "kind of text",
    ("pandas._libs.missing", "NA"): "missing",
    ("pandas", "NA"): "missing",
}
DTYPE = re.compile(r"O8?|[iu][1248]|f[248]|b1|U\d{1,6}")


class _Part:
    """A note of one object of a pickle: the role of its name, what it was to be called with, its state."""

    __slots__ = ("args", "state")
    role: ClassVar[str] = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> "_Part":
        part = super().__new__(cls)
        part.args, part.state = args, None
        return part

    def __setstate__(self, state: Any) -> None:
        self.state = state


_PARTS: dict[str, type[_Part]] = {
    role: type(role, (_Part,), {"role": role, "__slots__": ()}) for role in sorted(set(ADMITTED.values()))
}


class _Reader(pickle.Unpickler):
    """Reads a pickle into notes; a name that is not in ``ADMITTED`` is refused before anything is done with it."""

    def __init__(self, stream: Any, path: str | Path) -> None:
        super().__init__(stream)
        self.path = path

    def find_class(self, module: str, name: str) -> type[_Part]:
        """The note to write for an admitted name; :class:`ContractError` for any other."""
        if (module, name) not in ADMITTED:
            raise ContractError(
                f"{self.path}: the pickle names {f'{module}.{name}'[:100]!a}, which a DataFrame of NumPy arrays does "
                "not need; the file was refused and nothing of it was run. If you made it, write its columns as NumPy "
                "arrays (float and object), or use another format: table, h5ad"
            )
        return _PARTS[ADMITTED[module, name]]


class _FormError(Exception):
    """What a note says is not of the form that is read here."""


# --- from notes to arrays -----------------------------------------------------------------------------


def _need(condition: object, what: str) -> None:
    if not condition:
        raise _FormError(what)


def _role(value: Any) -> str:
    return value.role if isinstance(value, _Part) else ""


def _dtype(part: Any) -> np.dtype:
    _need(_role(part) == "dtype" and part.args, "an array without a dtype")
    code, state = part.args[0], part.state
    _need(isinstance(code, str) and DTYPE.fullmatch(code), f"an array of dtype {str(code)[:30]!a}")
    order = "|" if state is None else state[1]
    _need(order in ("<", ">", "=", "|"), "a dtype of unknown byte order")
    _need(state is None or not any(state[2:5]), "a dtype with fields")
    return np.dtype(code).newbyteorder(order)


def _bytes(data: Any) -> bytes | bytearray:
    if _role(data) == "bytes":
        text, encoding = data.args
        _need(isinstance(text, str) and encoding in ("latin1", "latin-1"), "bytes in an unknown encoding")
        return text.encode("latin-1")
    _need(isinstance(data, bytes | bytearray), "an array whose values are not bytes")
    return data


def _item(value: Any) -> Any:
    """One value of an array of objects: text, a number, or NaN for what is missing."""
    if value is None or isinstance(value, str | int | float):
        return value
    if _role(value) == "scalar":
        dtype, data = value.args
        return np.frombuffer(_bytes(data), _dtype(dtype), count=1)[0].item()
    if isinstance(value, type) and issubclass(value, _Part) and value.role == "missing":
        return np.nan
    raise _FormError(f"a column with values of type {_role(value) or type(value).__name__}")


def _array(part: Any) -> np.ndarray:
    """An array without copying its bytes; one of objects holds text and numbers only."""
    axes = None
    if _role(part) == "buffer":
        data, dtype, shape, order, *more = part.args
        axes = more[0] if more and order == "K" else None
    else:
        _need(_role(part) == "array" and part.state is not None, "something that is not an array")
        _, shape, dtype, fortran, data = part.state
        order = "F" if fortran else "C"
    kind = _dtype(dtype)
    _need(isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape), "an array without a shape")
    if kind.kind == "O":
        _need(isinstance(data, list) and len(data) == prod(shape), "an array of objects of the wrong length")
        flat = np.empty(len(data), dtype=object)
        flat[:] = [_item(value) for value in data]
        return flat.reshape(shape)  # listed row by row, whatever their order in memory was
    flat = np.frombuffer(_bytes(data), kind)
    return flat.reshape(shape).transpose(axes) if axes else flat.reshape(shape, order="F" if order == "F" else "C")


def _values(part: Any) -> np.ndarray:
    """The values of a block or an index: an array, or one of pandas' own over a NumPy array, as objects."""
    if _role(part) != "backed":
        return _array(part)
    of = part.args[0].role
    inner = next(_array(x) for x in part.state if _role(x) in ("array", "buffer"))
    if of != "categorical":
        return inner
    dtype = next(x for x in part.state if _role(x) == "categories")
    labels = np.append(_names(dtype.state["categories"]).astype(object), np.nan)
    _need(inner.dtype.kind == "i" and inner.ndim == 1, "categories without codes")
    _need(not inner.size or -1 <= inner.min() <= inner.max() < len(labels) - 1, "a category that does not exist")
    return labels[inner]


def _names(part: Any) -> np.ndarray:
    _need(_role(part) == "index" and isinstance(part.args[1], dict), "an index of another kind")
    _need("data" in part.args[1], "columns that have no names")
    names = _values(part.args[1]["data"])
    _need(names.ndim == 1, "an index of more than one level")
    return names


@dataclass
class _Table:
    """A DataFrame as names and blocks: places of columns among the names, and values, shape (columns, rows)."""

    path: str | Path
    names: list[str]
    blocks: list[tuple[np.ndarray, np.ndarray]]
    rows: int

    def column(self, name: str) -> np.ndarray:
        """The values of a column as objects, shape (rows,)."""
        place = self.names.index(name)
        for places, values in self.blocks:
            if place in places:
                return values[np.flatnonzero(places == place)[0]].astype(object)
        raise AssertionError(name)  # every column is in a block: _frame has seen to it


def _frame(part: Any, path: str | Path) -> _Table:
    _need(_role(part) == "frame", f"'{_role(part) or type(part).__name__}', not a frame")
    _need(isinstance(part.state, dict) and _role(part.state.get("_mgr")) == "manager", "a DataFrame of an old pandas")
    manager = part.state["_mgr"]
    _need(len(manager.args) == 2, "a DataFrame of an old pandas")
    stored, axes = manager.args
    names = [number_text(name) for name in _names(axes[0])]
    blocks = []
    for block in stored:
        _need(_role(block) == "block", "a block of another kind")
        values, where, *_ = block.args
        values = np.atleast_2d(_values(values))
        places = np.arange(len(names))[slice(*where.args)] if _role(where) == "slice" else _array(where)
        _need(values.ndim == 2 and places.shape == values.shape[:1], "a block whose columns have no place")
        blocks.append((places, values))
    _need(len({values.shape[1] for _, values in blocks}) == 1, "columns of different lengths")
    covered = np.concatenate([places for places, _ in blocks])
    _need(covered.dtype.kind == "i" and np.array_equal(np.sort(covered), np.arange(len(names))), "columns that lack")
    return _Table(path, names, blocks, blocks[0][1].shape[1])


def _table(path: str | Path) -> _Table:
    """Reads a pickled DataFrame, running nothing of it; the arrays are views of the bytes read."""
    try:
        with Path(path).open("rb") as stream:
            content = _Reader(stream, path).load()
        table = _frame(content, path)
    except (ContractError, OSError):
        raise
    except MemoryError as error:
        size = Path(path).stat().st_size / 1e9
        raise ContractError(f"{path}: {size:.1f} GB do not fit in memory, or the file is damaged") from error
    except _FormError as error:
        raise ContractError(f"{path}: not a DataFrame of NumPy arrays: it holds {error}; {_REMEDY}") from error
    except Exception as error:  # a damaged file can fail in any way
        what = str(error)[:100] or type(error).__name__
        raise ContractError(
            f"{path}: cannot be read as a pickled DataFrame ({what}); is it whole? {_REMEDY}"
        ) from error
    twice = next(
        (name for name, again in zip(table.names, pd.Index(table.names).duplicated(), strict=True) if again), None
    )
    if twice is not None:
        raise ContractError(f"{path}: column '{twice}' occurs twice; remove one")
    return table


_REMEDY = "write it with DataFrame.to_pickle of pandas 1.5 or later, without compression"


# --- what the pair must hold --------------------------------------------------------------------------


def _require(table: _Table, columns: tuple[str, ...]) -> None:
    for name in columns:
        if name not in table.names:
            raise ContractError(f"{table.path}: no column '{name}'; {choices(name, table.names)}")


def _genes(table: _Table) -> list[str]:
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


def _labels(table: _Table, name: str) -> list[str]:
    """A column as text, "" where there is none."""
    return ["" if value is None or value != value else number_text(value) for value in table.column(name)]


def _float32(
    table: _Table, genes: list[str], ids: list[str], target: Callable[[int, int], np.ndarray]
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
    table = _table(path)
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


def _check_pair(treated: _Table, control: str | Path, aligned: dict[str, list[str]], controls: _Controls) -> None:
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
    table = _table(treated)
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


def _check_ids(table: _Table, ids: list[str]) -> None:
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
