"""Files as torch.save and torch_geometric write them, made where neither is installed: a zip and a pickle by hand."""

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {
    "f8": "Double",
    "f4": "Float",
    "f2": "Half",
    "i8": "Long",
    "i4": "Int",
    "i2": "Short",
    "i1": "Char",
    "u1": "Byte",
}


def named(module: str, name: str) -> type:
    """A class that pickles as a name of another module, called or referred to."""
    return type(name, (), {"__module__": module, "__qualname__": name, "__call__": lambda self: None})


REBUILD, ORDERED = named("torch._utils", "_rebuild_tensor_v2"), named("collections", "OrderedDict")
DATA, STORE = named("torch_geometric.data.data", "Data"), named("torch_geometric.data.storage", "GlobalStorage")
CLASSES = [named("torch_geometric.data.data", f"Data{kind}Attr") for kind in ("Edge", "Tensor")]


class Reduced:
    """Pickles as ``what(*args)``, with a state and items if there are any."""

    def __init__(self, what: type, args: tuple[Any, ...], state: Any = None, items: Any = ()) -> None:
        self.how = (what, args, state, None, iter(items))

    def __reduce__(self) -> tuple[Any, ...]:
        return self.how


class Storage:
    """A storage of a tensor, of a kind, with its bytes and the number of values that the pickle says it has."""

    def __init__(self, kind: str, data: bytes, count: int) -> None:
        self.kind, self.data, self.count = named("torch", f"{kind}Storage"), data, count


def storage(values: np.ndarray) -> Storage:
    kind = "Bool" if values.dtype == bool else KINDS[values.dtype.str[1:]]
    return Storage(kind, values.tobytes(), values.size)


def tensor(of: Storage, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, *more: Any) -> Reduced:
    return Reduced(REBUILD, (of, offset, size, stride, False, Reduced(ORDERED, ()), *more))


def plain(values: Any) -> Reduced:
    """An array as a contiguous tensor."""
    values = np.ascontiguousarray(values)
    return tensor(storage(values), values.shape, tuple(step // values.itemsize for step in values.strides))


class _New:
    """Pickles as a new object of a class with a state, as objects without a __reduce__ of their own do."""

    def __init__(self, of: type, state: Any) -> None:
        self.of, self.state = of, state


def data(**attributes: Any) -> _New:
    """A Data of torch_geometric 2: its attributes are in a storage that refers back to it."""
    store = _New(STORE, {"_mapping": attributes})
    new = _New(DATA, {"_edge_attr_cls": CLASSES[0], "_tensor_attr_cls": CLASSES[1], "_store": store})
    store.state["_parent"] = new
    return new


def old_data(**attributes: Any) -> _New:
    """A Data of torch_geometric 1."""
    return _New(DATA, {"x": None, "edge_index": None, **attributes})


class _Pickler(pickle._Pickler):
    """Writes names without looking them up, and storages apart."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, 2)
        self.storages: list[Storage] = []

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        if obj not in self.storages:
            self.storages.append(obj)
        return ("storage", obj.kind, str(self.storages.index(obj)), "cpu", obj.count)

    def save_global(self, obj: Any, name: str | None = None) -> None:
        self.write(b"c" + f"{obj.__module__}\n{name or obj.__qualname__}\n".encode())
        self.memoize(obj)

    def save_new(self, obj: _New) -> None:
        self.save(obj.of)
        self.write(b")\x81")  # EMPTY_TUPLE, NEWOBJ
        self.memoize(obj)
        self.save(obj.state)
        self.write(b"b")

    dispatch = {**pickle._Pickler.dispatch, _New: save_new}  # noqa: RUF012 - that is how it is extended


def write(path: Path, content: Any, **options: Any) -> Path:
    """``content`` as torch.save would write it; ``options`` as those of :func:`archive`."""
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    pickler.dump(content)
    return archive(path, stream.getvalue(), [storage.data for storage in pickler.storages], **options)


def archive(
    path: Path, pickled: bytes, storages: list[bytes], order: str = "little", compression: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", order)
        for key, values in enumerate(storages):
            file.writestr(f"archive/data/{key}", values)
        file.writestr("archive/version", "3\n")
    return path


def bfloat16(values: list[float]) -> Reduced:
    """Values that bfloat16 holds exactly."""
    content = b"".join(struct.pack("<f", value)[2:] for value in values)
    return tensor(Storage("BFloat16", content, len(values)), (len(values),), (1,))
