"""Reads what ``torch.save`` wrote into NumPy arrays and plain Python, without torch and without running anything.

Such a file is a zip archive (https://docs.pytorch.org/docs/stable/notes/serialization.html): ``data.pkl``, a pickle in
which every tensor names a storage, and ``data/<key>``, the bytes of each storage. The pickle goes through the reader of
:mod:`trueshift.data.pickles.inert`: a name that is not among those below is refused, and those below are noted, never
imported or called. Objects of torch_geometric become :class:`Record`, their attributes by name.
"""

import io
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from trueshift.contract import ContractError
from trueshift.data.pickles.inert import (
    ARRAYS,
    FormError,
    Part,
    Reader,
    array_of,
    item_of,
    need,
    parts_of,
    refusals,
    role_of,
)

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
NAMES = {
    **{("torch", name): f"storage of {kind}" for name, kind in STORAGES.items()},
    ("torch._utils", "_rebuild_tensor_v2"): "tensor",
    ("collections", "OrderedDict"): "ordered",
    ("torch_geometric.data.data", "Data"): "record",
    ("torch_geometric.data.storage", "GlobalStorage"): "store",
    # classes that a Data refers to; nothing is read of them
    ("torch_geometric.data.data", "DataEdgeAttr"): "kind of attribute",
    ("torch_geometric.data.data", "DataTensorAttr"): "kind of attribute",
    **ARRAYS,
}
ZIP = b"PK\x03\x04"
REMEDY = "write it with torch.save, holding tensors, arrays, text, numbers, lists and dicts alone"


@dataclass(frozen=True)
class Record:
    """An object of torch_geometric: the names of all its attributes, and the values of those that were asked for."""

    names: tuple[str, ...]
    attributes: dict[str, Any]


class _Ordered(Part):
    """A note of an OrderedDict and its items."""

    __slots__ = ("items",)
    role = "ordered"
    items: dict[Any, Any]

    def __new__(cls, *args: Any) -> Self:
        part = super().__new__(cls, *args)
        part.items = {}
        return part

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value


class _Storage(Part):
    """A note of where the values of a tensor are."""

    __slots__ = ()
    role = "storage"


class _TorchReader(Reader):
    admitted = NAMES
    parts: ClassVar = {**parts_of(NAMES.values()), "ordered": _Ordered}
    needless = "a list or dict of tensors, arrays and torch_geometric Data"
    remedy = f"If you made it, {REMEDY}"

    def persistent_load(self, pid: Any) -> Part:
        """The note of a storage, which a pickle refers to by its type, key, device and number of values."""
        return _Storage(*pid) if isinstance(pid, tuple) else _Storage()


class _Archive:
    """The storages of an archive as arrays, each read once, and what refers to them as plain values."""

    def __init__(self, file: zipfile.ZipFile, folder: str, only: Collection[str] | None) -> None:
        self.file, self.folder, self.only = file, folder, only
        order = f"{folder}byteorder"
        self.order = ">" if order in file.namelist() and self.content("byteorder") == b"big" else "<"
        self.storages: dict[str, np.ndarray] = {}
        self.done: dict[int, Any] = {}  # what several refer to is turned once, so sharing costs nothing

    def content(self, name: str) -> bytes:
        """The bytes of one entry. torch stores them as they are: compressed ones could be of any size once unpacked."""
        entry = self.file.getinfo(self.folder + name)
        need(entry.compress_type == zipfile.ZIP_STORED, "compressed entries")
        return self.file.read(entry)

    def storage(self, part: Any) -> np.ndarray:
        """The values of a storage, shape (n,), read-only."""
        need(role_of(part) == "storage" and len(part.args) == 5, "a tensor without a storage")
        _, kind, key, _, count = part.args
        role = kind.role if isinstance(kind, type) and issubclass(kind, Part) else ""
        need(role.startswith("storage of ") and isinstance(key, str) and isinstance(count, int), "a forged storage")
        name = role.removeprefix("storage of ")
        values = self.storages.get(f"{name} {key}")
        if values is None:
            data = self.content(f"data/{key}")
            values = self.storages[f"{name} {key}"] = _values(data, name, self.order)
        need(len(values) == count, f"a storage of {len(values)} values that should have {count}")
        return values

    def tensor(self, args: tuple[Any, ...]) -> np.ndarray:
        """A tensor as a view of its storage, checked to lie within it."""
        storage, offset, size, stride, _, _, *more = args
        need(not any(more), "a tensor with a conjugate or negative bit")
        values = self.storage(storage)
        numbers = (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else (None,)
        need(all(type(n) is int and n >= 0 for n in numbers) and len(size) == len(stride), "a tensor without a shape")
        if 0 in size:
            return np.empty(size, dtype=values.dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        need(last < len(values), f"a tensor that reaches to value {last} of a storage of {len(values)}")
        steps = tuple(step * values.itemsize for step in stride)
        return np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)

    def plain(self, value: Any) -> Any:
        """Notes as arrays, records and plain values, containers likewise."""
        if value is None or isinstance(value, bool | int | float | str | bytes):
            return value
        if id(value) not in self.done:
            self.done[id(value)] = self._plain(value)
        return self.done[id(value)]

    def _plain(self, value: Any) -> Any:
        role = role_of(value)
        if role in ("array", "buffer"):
            return array_of(value)
        if role == "scalar":
            return item_of(value)
        if role == "tensor":
            return self.tensor(value.args)
        if role == "record":
            return self._record(value.state)
        if isinstance(value, list | tuple):
            items = [self.plain(item) for item in value]
            return tuple(items) if isinstance(value, tuple) else items
        if isinstance(value, dict) or role == "ordered":
            content: dict[Any, Any] = value if isinstance(value, dict) else value.items
            need(all(isinstance(key, str | int) for key in content), "a dict whose keys are neither text nor numbers")
            return {key: self.plain(item) for key, item in content.items()}
        raise FormError(f"a value of kind '{role or type(value).__name__}'")

    def _record(self, state: Any) -> Record:
        """Attributes are in the mapping of a storage, or, as torch_geometric 1 wrote them, in the object itself."""
        need(isinstance(state, dict), "a Data without content")
        if "_store" in state:
            state = state["_store"].state["_mapping"] if role_of(state["_store"]) == "store" else None
        need(isinstance(state, dict) and all(isinstance(name, str) for name in state), "a Data without attributes")
        chosen = state if self.only is None else [name for name in state if name in self.only]
        return Record(tuple(state), {name: self.plain(state[name]) for name in chosen})


def _values(data: bytes, kind: str, order: str) -> np.ndarray:
    if kind == "bool":
        return np.frombuffer(data, "u1") != 0
    if kind == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, f"{order}u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, f"{order}{kind}").astype(kind, copy=False)


def read(path: str | Path, only: Collection[str] | None = None) -> Any:
    """Reads a file of ``torch.save``: tensors as arrays, dicts, lists, tuples, text and numbers as they are.

    Objects of torch_geometric become :class:`Record`, of which only the attributes in ``only`` are read. Arrays may be
    read-only views with the strides of their tensors; tensors of bfloat16 become float32. Memory: the bytes of the
    storages read.

    Raises :class:`ContractError` if the pickle names anything but tensors, arrays and such objects (nothing of a file
    is ever run), on files that torch before 1.6 wrote, on tensors that reach beyond their storage and on damage.
    """
    path = Path(path)
    with refusals(path, "a file of tensors as torch.save writes it", REMEDY):
        with path.open("rb") as stream:
            start = stream.read(len(ZIP))
        if start != ZIP:
            raise ContractError(
                f"{path}: not a zip archive, as torch.save writes since 1.6; if an older torch wrote it, load it and "
                "save it again with a newer one"
            )
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
            need(sum(entry.compress_size for entry in entries) <= path.stat().st_size, "entries that overlap")
            names = {name for name in file.namelist() if name.endswith("/data.pkl") and name.count("/") == 1}
            need(len(names) == 1, "no data.pkl")
            archive = _Archive(file, names.pop().removesuffix("data.pkl"), only)
            return archive.plain(_TorchReader(io.BytesIO(archive.content("data.pkl")), path).load())
