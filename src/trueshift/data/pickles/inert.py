"""Reads a pickled pandas DataFrame of NumPy arrays without running anything of the file.

Unpickling runs what a file says, so nothing is unpickled in that sense. :class:`Reader` admits a short list of names
that a DataFrame of NumPy arrays is written with and puts in the place of each an inert :class:`Part`: a note of what
was to be called with what. No function or class that a file names is imported or called, pandas and NumPy included.
When the whole file is read, :func:`read_frame` takes text and arrays out of the notes, checking what it finds; anything
of another form is refused, text in PyArrow arrays too (what pandas 3 writes where PyArrow is installed). So the pandas
that wrote a file and the one that is installed need not be alike: tried with files of pandas 1.5, 2.3 and 3.1,
NumPy 1 and 2, pickle protocols 2 to 5.
"""

import mmap
import os
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from trueshift.contract import ContractError
from trueshift.data.canonical.columns import number_text

# Every name that a file may hold, by what it stands for. None is imported or called: each becomes an inert note, so
# none can do harm whatever it is called with, nested in what, or given as state. The list is short all the same, so
# that a file of another kind is told apart at its first name.
ARRAYS = {
    # arrays: raw bytes or, of objects, a list whose items pass the same gate
    **{(f"numpy.{core}.multiarray", "_reconstruct"): "array" for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "buffer" for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): "scalar" for core in ("core", "_core")},
    ("numpy", "ndarray"): "kind of array",
    ("numpy", "dtype"): "dtype",
    # the bytes of an array in protocol 2, written as text; only latin-1 is decoded
    ("_codecs", "encode"): "bytes",
}
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
    **ARRAYS,
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
LEFT = 1 << 20  # bytes of one array from which on it is left in the file
DTYPE = re.compile(r"O8?|[iu][1248]|f[248]|b1|U\d{1,6}")


class Part:
    """A note of one object of a pickle: the role of its name, what it was to be called with, its state."""

    __slots__ = ("args", "state")
    role: ClassVar[str] = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Self:
        """Notes the arguments of a call that is not made."""
        part = super().__new__(cls)
        part.args, part.state = args, None
        return part

    def __setstate__(self, state: Any) -> None:
        self.state = state

    @staticmethod
    def content(data: Any) -> Any:
        """What the bytes of an array stand for: themselves, if a reader does not say otherwise."""
        return data


def parts_of(roles: Iterable[str]) -> dict[str, type[Part]]:
    """A kind of note for every role."""
    return {role: type(role, (Part,), {"role": role, "__slots__": ()}) for role in sorted(set(roles))}


_PARTS = parts_of(ADMITTED.values())


class Reader(pickle.Unpickler):
    """Reads a pickle into notes; a name that is not in ``admitted`` is refused before anything is done with it.

    A reader of other files overrides the four: the names with their roles, the kind of note of every role, and for the
    message of a refusal, what does not need such a name and the remedy.
    """

    admitted: ClassVar[Mapping[tuple[str, str], str]] = ADMITTED
    parts: ClassVar[Mapping[str, type[Part]]] = _PARTS
    needless: ClassVar[str] = "a DataFrame of NumPy arrays"
    remedy: ClassVar[str] = (
        "If you made it, write its columns as NumPy arrays (float and object), or use another format: table, h5ad"
    )

    def __init__(self, stream: Any, path: str | Path) -> None:
        super().__init__(stream)
        self.path = path

    def find_class(self, module: str, name: str) -> type[Part]:
        """The note to write for an admitted name; :class:`ContractError` for any other."""
        if (module, name) not in self.admitted:
            raise ContractError(
                f"{self.path}: the pickle names {f'{module}.{name}'[:100]!a}, which {self.needless} does not need; "
                f"the file was refused and nothing of it was run. {self.remedy}"
            )
        return self.parts[self.admitted[module, name]]


class _Stream:
    """A pickle whose large arrays stay in the file: the memory that they are given is never written to.

    The reader allocates room for the bytes of an array and asks to have it filled. Nothing touches such room here, so
    it takes no memory; :meth:`bytes_of` gives in its place what the file holds. Room is known by where it ends, which
    no two objects share as long as both are there.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = Path(path).open("rb")  # noqa: SIM115 - closed at the end of the block
        self._size = os.fstat(self._file.fileno()).st_size
        self._left: dict[int, int] = {}
        self._map: mmap.mmap | None = None
        self.read, self.readline, self.peek = self._file.read, self._file.readline, self._file.peek

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def readinto(self, room: memoryview) -> int:
        end = self._file.tell() + len(room)
        if len(room) < LEFT or end > self._size:
            return self._file.readinto(room)
        self._left[_end_of(room)] = end
        self._file.seek(end)
        return len(room)

    def bytes_of(self, data: bytes | bytearray) -> bytes | bytearray | memoryview:
        """The content of bytes that were read: themselves, or the part of the file that they stand for."""
        end = self._left.get(_end_of(data)) if len(data) >= LEFT else None
        if end is None:
            return data
        if self._map is None:
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(self._map)[end - len(data) : end]


def _end_of(data: Any) -> int:
    view = np.frombuffer(data, np.uint8)
    return int(view.ctypes.data) + len(view)


class FormError(Exception):
    """What a note says is not of the form that is read."""


@contextmanager
def refusals(path: str | Path, form: str, remedy: str) -> Iterator[None]:
    """Turns what fails while a foreign file is read into a :class:`ContractError` naming it, ``form`` and remedy."""
    try:
        yield
    except (ContractError, OSError):
        raise
    except MemoryError as error:
        size = Path(path).stat().st_size / 1e9
        raise ContractError(f"{path}: {size:.1f} GB do not fit in memory, or the file is damaged") from error
    except FormError as error:
        raise ContractError(f"{path}: not {form}: it holds {error}; {remedy}") from error
    except Exception as error:  # a damaged file can fail in any way
        what = str(error)[:100] or type(error).__name__
        raise ContractError(f"{path}: cannot be read as {form} ({what}); is it whole? {remedy}") from error


# --- from notes to arrays -----------------------------------------------------------------------------


def need(condition: object, what: str) -> None:
    """Raises :class:`FormError`, saying ``what`` there is, unless the condition holds."""
    if not condition:
        raise FormError(what)


def role_of(value: Any) -> str:
    """The role of a note; "" for anything else."""
    return value.role if isinstance(value, Part) else ""


def _dtype(part: Any) -> np.dtype:
    need(role_of(part) == "dtype" and part.args, "an array without a dtype")
    code, state = part.args[0], part.state
    need(isinstance(code, str) and DTYPE.fullmatch(code), f"an array of dtype {str(code)[:30]!a}")
    order = "|" if state is None else state[1]
    need(order in ("<", ">", "=", "|"), "a dtype of unknown byte order")
    need(state is None or not any(state[2:5]), "a dtype with fields")
    return np.dtype(code).newbyteorder(order)


def _bytes(part: Part, data: Any) -> Any:
    if role_of(data) == "bytes":
        text, encoding = data.args
        need(isinstance(text, str) and encoding in ("latin1", "latin-1"), "bytes in an unknown encoding")
        return text.encode("latin-1")
    need(isinstance(data, bytes | bytearray), "an array whose values are not bytes")
    return part.content(data)


def item_of(value: Any) -> Any:
    """A value by itself: text, a number, or NaN for what is missing."""
    if value is None or isinstance(value, str | int | float):
        return value
    if role_of(value) == "scalar":
        dtype, data = value.args
        return np.frombuffer(_bytes(value, data), _dtype(dtype), count=1)[0].item()
    if isinstance(value, type) and issubclass(value, Part) and value.role == "missing":
        return np.nan
    raise FormError(f"a column with values of type {role_of(value) or type(value).__name__}")


def array_of(part: Any) -> np.ndarray:
    """An array without copying its bytes; one of objects holds text and numbers only."""
    axes = None
    if role_of(part) == "buffer":
        data, dtype, shape, order, *more = part.args
        axes = more[0] if more and order == "K" else None
    else:
        need(role_of(part) == "array" and part.state is not None, "something that is not an array")
        _, shape, dtype, fortran, data = part.state
        order = "F" if fortran else "C"
    kind = _dtype(dtype)
    need(isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape), "an array without a shape")
    if kind.kind == "O":
        need(isinstance(data, list) and len(data) == prod(shape), "an array of objects of the wrong length")
        flat = np.empty(len(data), dtype=object)
        flat[:] = [item_of(value) for value in data]
        return flat.reshape(shape)  # listed row by row, whatever their order in memory was
    flat = np.frombuffer(_bytes(part, data), kind)
    return flat.reshape(shape).transpose(axes) if axes else flat.reshape(shape, order="F" if order == "F" else "C")


def _values(part: Any) -> np.ndarray:
    """The values of a block or an index: an array, or one of pandas' own over a NumPy array, as objects."""
    if role_of(part) != "backed":
        return array_of(part)
    of = part.args[0].role
    inner = next(array_of(x) for x in part.state if role_of(x) in ("array", "buffer"))
    if of != "categorical":
        return inner
    dtype = next(x for x in part.state if role_of(x) == "categories")
    labels = np.append(_names(dtype.state["categories"]).astype(object), np.nan)
    need(inner.dtype.kind == "i" and inner.ndim == 1, "categories without codes")
    need(not inner.size or -1 <= inner.min() <= inner.max() < len(labels) - 1, "a category that does not exist")
    return labels[inner]


def _names(part: Any) -> np.ndarray:
    need(role_of(part) == "index" and isinstance(part.args[1], dict), "an index of another kind")
    need("data" in part.args[1], "columns that have no names")
    names = _values(part.args[1]["data"])
    need(names.ndim == 1, "an index of more than one level")
    return names


@dataclass
class Frame:
    """A DataFrame as names and blocks: places of columns among the names, and values, shape (columns, rows)."""

    path: str | Path
    names: list[str]
    blocks: list[tuple[np.ndarray, np.ndarray]]
    rows: int

    @property
    def in_file(self) -> bool:
        """Whether large arrays of numbers are in the file, and not in memory already."""
        large = [values for _, values in self.blocks if values.dtype.kind != "O" and values.nbytes >= LEFT]
        return all(offset_of(values) is not None for values in large)

    def column(self, name: str) -> np.ndarray:
        """The values of a column as objects, shape (rows,)."""
        place = self.names.index(name)
        for places, values in self.blocks:
            if place in places:
                return values[np.flatnonzero(places == place)[0]].astype(object)
        raise AssertionError(name)  # every column is in a block: _frame has seen to it


def offset_of(values: np.ndarray) -> int | None:
    """Where an array that was left in its file begins there, in bytes; None if it is in memory."""
    base: Any = values
    while isinstance(base, np.ndarray):
        base = base.base
    if not (isinstance(base, memoryview) and isinstance(base.obj, mmap.mmap)):
        return None
    return int(values.ctypes.data) - int(np.frombuffer(base.obj, np.uint8).ctypes.data)


def _frame(part: Any, path: str | Path) -> Frame:
    need(role_of(part) == "frame", f"'{role_of(part) or type(part).__name__}', not a frame")
    need(isinstance(part.state, dict) and role_of(part.state.get("_mgr")) == "manager", "a DataFrame of an old pandas")
    manager = part.state["_mgr"]
    need(len(manager.args) == 2, "a DataFrame of an old pandas")
    stored, axes = manager.args
    names = [number_text(name) for name in _names(axes[0])]
    blocks = []
    for block in stored:
        need(role_of(block) == "block", "a block of another kind")
        values, where, *_ = block.args
        values = np.atleast_2d(_values(values))
        places = np.arange(len(names))[slice(*where.args)] if role_of(where) == "slice" else array_of(where)
        need(values.ndim == 2 and places.shape == values.shape[:1], "a block whose columns have no place")
        blocks.append((places, values))
    need(len({values.shape[1] for _, values in blocks}) == 1, "columns of different lengths")
    covered = np.concatenate([places for places, _ in blocks])
    need(covered.dtype.kind == "i" and np.array_equal(np.sort(covered), np.arange(len(names))), "columns that lack")
    return Frame(path, names, blocks, blocks[0][1].shape[1])


def read_frame(path: str | Path) -> Frame:
    """Reads a pickled DataFrame, running nothing of it; large arrays stay in the file and come as they are used."""
    with refusals(path, "a pickled DataFrame of NumPy arrays", _REMEDY), _Stream(path) as stream:
        content = {"__slots__": (), "content": staticmethod(stream.bytes_of)}
        parts = {role: type(role, (part,), content) for role, part in Reader.parts.items()}
        reader = type("FrameReader", (Reader,), {"parts": parts})(stream, path)
        table = _frame(reader.load(), path)
    twice = next(
        (name for name, again in zip(table.names, pd.Index(table.names).duplicated(), strict=True) if again), None
    )
    if twice is not None:
        raise ContractError(f"{path}: column '{twice}' occurs twice; remove one")
    return table


_REMEDY = "write it with DataFrame.to_pickle of pandas 1.5 or later, without compression"
