"""Makes NumPy arrays of the notes that a pickle of arrays is read into. Their bytes are not copied."""

import re
from math import prod
from typing import Any

import numpy as np

from trueshift.data.pickles.restricted import Note, need, note_class

# Of arrays of objects, the content is a list; bytes are text in protocol 2, of which only latin-1 is decoded.
ARRAYS = frozenset(
    {
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
        "numpy.ndarray",
        "numpy.dtype",
        "_codecs.encode",
    }
)
DTYPE = re.compile(r"O8?|[iu][1248]|f[248]|b1|U\d{1,6}")


def name_of(value: Any) -> str:
    """What a value is: the name that a note is of, the type of a plain value."""
    return type(value).__name__


def is_array(value: Any) -> bool:
    """Whether a value is the note of an array."""
    return name_of(value) in ("_reconstruct", "_frombuffer")


def array_of(note: Any) -> np.ndarray:
    """The array that a note describes. One of objects holds text and numbers only. Raises ValueError otherwise."""
    axes = None
    if name_of(note) == "_frombuffer":
        data, dtype, shape, order, *more = note.args
        axes = more[0] if more and order == "K" else None
    else:
        need(name_of(note) == "_reconstruct" and note.state is not None, f"'{name_of(note)}', which is no array")
        _, shape, dtype, fortran, data = note.state
        order = "F" if fortran else "C"
    kind = _dtype(dtype)
    need(isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape), "an array without a shape")
    if kind.kind == "O":
        need(isinstance(data, list) and len(data) == prod(shape), "an array of objects of the wrong length")
        flat = np.empty(len(data), dtype=object)
        flat[:] = [item_of(value) for value in data]
        return flat.reshape(shape)  # listed row by row, whatever their order in memory was
    flat = np.frombuffer(_bytes(data), kind)
    return flat.reshape(shape).transpose(axes) if axes else flat.reshape(shape, order="F" if order == "F" else "C")


def item_of(value: Any) -> Any:
    """A value by itself: text, a number, or NaN for what is missing. Raises ValueError for any other."""
    if value is None or isinstance(value, str | int | float):
        return value
    if name_of(value) == "scalar":
        dtype, data = value.args
        return np.frombuffer(_bytes(data), _dtype(dtype), count=1)[0].item()
    need(value is note_class("NA"), f"values of type {name_of(value)} in an array of objects")
    return np.nan


def _dtype(note: Any) -> np.dtype:
    need(isinstance(note, Note) and name_of(note) == "dtype" and note.args, "an array without a dtype")
    code, state = note.args[0], note.state
    need(isinstance(code, str) and DTYPE.fullmatch(code), f"an array of dtype {str(code)[:30]!a}")
    order = "|" if state is None else state[1]
    need(order in ("<", ">", "=", "|"), "a dtype of unknown byte order")
    need(state is None or not any(state[2:5]), "a dtype with fields")
    return np.dtype(code).newbyteorder(order)


def _bytes(data: Any) -> Any:
    if name_of(data) == "encode":
        text, encoding = data.args
        need(isinstance(text, str) and encoding in ("latin1", "latin-1"), "bytes in an unknown encoding")
        return text.encode("latin-1")
    need(isinstance(data, bytes | bytearray), "an array whose values are not bytes")
    return data
