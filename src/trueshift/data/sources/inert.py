"""Reads a pickled pandas DataFrame of NumPy arrays without running anything of the file.

Unpickling runs what a file says, so nothing is unpickled in that sense. :class:`_Reader` admits a short list of names
that a DataFrame of NumPy arrays is written with and puts in the place of each an inert :class:`_Part`: a note of what
was to be called with what. No function or class that a file names is imported or called, pandas and NumPy included.
When the whole file is read, :func:`read_frame` takes text and arrays out of the notes, checking what it finds; anything
of another form is refused, text in PyArrow arrays too (what pandas 3 writes where PyArrow is installed). So the pandas
that wrote a file and the one that is installed need not be alike: tried with files of pandas 1.5, 2.3 and 3.1,
NumPy 1 and 2, pickle protocols 2 to 5.
"""

import pickle
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from trueshift.contract import ContractError
from trueshift.data.sources.columns import number_text

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
class Frame:
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


def _frame(part: Any, path: str | Path) -> Frame:
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
    return Frame(path, names, blocks, blocks[0][1].shape[1])


def read_frame(path: str | Path) -> Frame:
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
