"""Reads what ``torch.save`` wrote into NumPy arrays and plain Python, without torch and without running anything.

Such a file is a zip archive (https://docs.pytorch.org/docs/stable/notes/serialization.html): ``data.pkl``, a pickle in
which every tensor names a storage, and ``data/<key>``, the bytes of each storage. Objects of torch_geometric become
:class:`Record`, their attributes by name.
"""

import io
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from trueshift.contract import ContractError
from trueshift.data.pickles.arrays import ARRAYS, array_of, is_array, item_of, name_of
from trueshift.data.pickles.restricted import Form, load, need, refusals

# Storages by what torch calls them; NumPy has no bfloat16, so those values become float32, which holds them all.
STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "bool",
}
TENSORS = ARRAYS | {"torch._utils._rebuild_tensor_v2", "collections.OrderedDict"}
# of the last two, classes that a Data refers to, nothing is read
OBJECTS = ("data.Data", "storage.GlobalStorage", "data.DataEdgeAttr", "data.DataTensorAttr")
FORM = Form(
    "a list or dict of tensors, arrays and torch_geometric Data",
    TENSORS | {f"torch.{name}" for name in STORAGES} | {f"torch_geometric.data.{name}" for name in OBJECTS},
    "Write it with torch.save, holding tensors, arrays, text, numbers, lists and dicts alone",
)
ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class Record:
    """An object of torch_geometric: the names of all its attributes, and the values of those that were asked for."""

    names: tuple[str, ...]
    attributes: dict[str, Any]


def read(path: str | Path, only: Collection[str] | None = None) -> Any:
    """Reads a file of ``torch.save``: tensors as arrays, dicts, lists, tuples, text and numbers as they are.

    Objects of torch_geometric become :class:`Record`, of which only the attributes in ``only`` are read. Arrays may be
    read-only views with the strides of their tensors; tensors of bfloat16 become float32. Memory: the bytes of the
    storages read.

    Raises :class:`ContractError` if the pickle names anything but tensors, arrays and such objects (nothing of a file
    is ever run), on files that torch before 1.6 wrote, on tensors that reach beyond their storage and on damage.
    """
    path = Path(path)
    with refusals(path, FORM):
        if not is_zip(path):
            raise ContractError(
                f"{path}: not a zip archive, as torch.save writes since 1.6; if an older torch wrote it, load it and "
                "save it again with a newer one"
            )
        with zipfile.ZipFile(path) as file:
            archive = _Archive(file, path.stat().st_size, only)
            return archive.plain(load(io.BytesIO(archive.content("data.pkl")), path, FORM))


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip archive does."""
    with path.open("rb") as stream:
        return stream.read(len(ZIP)) == ZIP


def numbers(data: bytes, kind: Any, order: str) -> np.ndarray:
    """The values of a storage of a torch class (FloatStorage), shape (n,), of bytes in an order (``<`` or ``>``)."""
    dtype = STORAGES[kind.__name__]
    if dtype == "bool":
        return np.frombuffer(data, "u1") != 0
    if dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, f"{order}u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, f"{order}{dtype}").astype(dtype, copy=False)


def view(values: np.ndarray, args: tuple[Any, ...], most: int) -> np.ndarray:
    """A tensor, by the arguments that it is rebuilt with, as a view of the values of its storage.

    Raises ValueError if it reaches beyond them, or has more than ``most`` values (those of a stride 0 take no bytes).
    """
    _, offset, size, stride, _, _, *more = args
    need(not any(more), "a tensor with a conjugate or negative bit")
    whole = (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else (None,)
    need(all(type(n) is int and n >= 0 for n in whole) and len(size) == len(stride), "a tensor without a shape")
    if 0 in size:
        return np.empty(size, dtype=values.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    need(last < len(values), f"a tensor that reaches to value {last} of a storage of {len(values)}")
    need(prod(size) <= most, "tensors of more values than the file has bytes")
    steps = tuple(step * values.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)


class _Archive:
    """The storages of an archive as arrays, each read once, and what refers to them as plain values."""

    def __init__(self, file: zipfile.ZipFile, size: int, only: Collection[str] | None) -> None:
        need(sum(entry.compress_size for entry in file.infolist()) <= size, "entries that overlap")
        names = {name for name in file.namelist() if name.endswith("/data.pkl") and name.count("/") == 1}
        need(len(names) == 1, "no data.pkl")
        self.file, self.folder, self.only, self.room = file, names.pop().removesuffix("data.pkl"), only, size
        big = f"{self.folder}byteorder" in file.namelist() and self.content("byteorder") == b"big"
        self.order = ">" if big else "<"
        self.storages: dict[tuple[Any, str], np.ndarray] = {}
        self.done: dict[int, Any] = {}  # what several refer to is made once, so sharing costs nothing

    def content(self, name: str) -> bytes:
        """The bytes of one entry. torch stores them as they are: compressed ones could be of any size once unpacked."""
        entry = self.file.getinfo(self.folder + name)
        need(entry.compress_type == zipfile.ZIP_STORED, "compressed entries")
        return self.file.read(entry)

    def tensor(self, args: tuple[Any, ...]) -> np.ndarray:
        """A tensor as a view of its storage."""
        need(name_of(args[0]) == "storage" and len(args[0].args) == 5, "a tensor without a storage")
        _, kind, key, _, count = args[0].args
        need(isinstance(key, str), "a storage without a key")
        if (kind, key) not in self.storages:
            self.storages[kind, key] = numbers(self.content(f"data/{key}"), kind, self.order)
        values = self.storages[kind, key]
        need(len(values) == count, f"a storage of {len(values)} values that should have {count}")
        tensor = view(values, args, self.room)
        self.room -= tensor.size
        return tensor

    def plain(self, value: Any) -> Any:
        """Notes as arrays, records and plain values, containers likewise."""
        if value is None or isinstance(value, bool | int | float | str | bytes):
            return value
        if id(value) not in self.done:
            self.done[id(value)] = self._plain(value)
        return self.done[id(value)]

    def _plain(self, value: Any) -> Any:
        name = name_of(value)
        if is_array(value):
            return array_of(value)
        if name == "scalar":
            return item_of(value)
        if name == "_rebuild_tensor_v2":
            return self.tensor(value.args)
        if name == "Data":
            return self._record(value.state)
        if isinstance(value, list | tuple):
            items = [self.plain(item) for item in value]
            return tuple(items) if isinstance(value, tuple) else items
        need(isinstance(value, dict), f"a value of kind '{name}'")
        need(all(isinstance(key, str | int) for key in value), "a dict whose keys are neither text nor numbers")
        return {key: self.plain(item) for key, item in dict.items(value)}

    def _record(self, state: Any) -> Record:
        """Attributes are in the mapping of a storage, or, as torch_geometric 1 wrote them, in the object itself."""
        need(isinstance(state, dict), "a Data without content")
        if "_store" in state:
            state = state["_store"].state["_mapping"] if name_of(state["_store"]) == "GlobalStorage" else None
        need(isinstance(state, dict) and all(isinstance(name, str) for name in state), "a Data without attributes")
        chosen = state if self.only is None else [name for name in state if name in self.only]
        return Record(tuple(state), {name: self.plain(state[name]) for name in chosen})
