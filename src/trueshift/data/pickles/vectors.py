"""Reads a dict of vectors by name, ``{text: NumPy array or torch tensor}``, without running anything of the file.

That is how embeddings of molecules are passed on (KPGT: ``{SMILES: 2,304 numbers}``): pickled, or written by
``torch.save``. Both go through the reader of :mod:`trueshift.data.pickles.inert`; torch is not imported.
"""

import io
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trueshift.data.pickles import torch_file
from trueshift.data.pickles.inert import ARRAYS, FormError, Reader, array_of, need, parts_of, refusals, role_of

# A tensor that is pickled by itself carries its storage as bytes, in the form of torch.save before it wrote zip files.
NAMES = {
    **{("torch", name): f"storage of {kind}" for name, kind in torch_file.STORAGES.items() if kind.startswith("f")},
    ("torch._utils", "_rebuild_tensor_v2"): "tensor",
    ("torch.storage", "_load_from_bytes"): "storage",
    ("collections", "OrderedDict"): "hooks",
    **ARRAYS,
}
KIND = "a dict of vectors"
REMEDY = "write {text: NumPy array} or {text: float tensor}, or use another format: csv, parquet, npz"


class _VectorReader(Reader):
    admitted = NAMES
    parts: ClassVar = parts_of(NAMES.values())
    needless = KIND
    remedy = f"If you made it, {REMEDY}"

    def persistent_load(self, pid: Any) -> Any:
        """The reference of a storage as it is: a tuple of notes, text and numbers."""
        return pid


def read_vectors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads ``{text: vector}``; all vectors have one length, shape (F,).

    Raises :class:`ContractError` on a pickle that names anything but arrays and tensors (nothing of a file is ever
    run), on a damaged file, and on anything that is not a vector of numbers.
    """
    path = Path(path)
    with refusals(path, KIND, REMEDY), path.open("rb") as stream:
        zipped = stream.read(len(torch_file.ZIP)) == torch_file.ZIP
        stream.seek(0)
        content = torch_file.read(path) if zipped else _VectorReader(stream, path).load()
        need(type(content) is dict and content, f"'{role_of(content) or type(content).__name__}', or nothing")
        return _alike({name: _vector(name, value, path) for name, value in content.items()})


def _vector(name: Any, value: Any, path: Path) -> np.ndarray:
    need(isinstance(name, str), f"a key that is not text, '{name!s:.60}'")
    if role_of(value) == "tensor":
        value = _tensor(value.args, path)
    elif role_of(value) in ("array", "buffer"):
        value = array_of(value)
    kind = role_of(value) or type(value).__name__
    need(isinstance(value, np.ndarray), f"a value of kind '{kind}', that of {name[:60]!a}")
    need(value.ndim == 1 and value.size, f"an array of shape {value.shape}, that of {name[:60]!a}")
    need(value.dtype.kind in "fiub", f"a vector that is not of numbers, that of {name[:60]!a}")
    return value


def _alike(vectors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    lengths = {len(values): name for name, values in vectors.items()}
    if len(lengths) > 1:
        (one, first), (other, second), *_ = lengths.items()
        raise FormError(
            f"vectors of different lengths, {one} that of {first[:60]!a} and {other} that of {second[:60]!a}"
        )
    return vectors


def _tensor(args: tuple[Any, ...], path: Path) -> np.ndarray:
    """The numbers of a tensor of one dimension, checked to lie within its storage."""
    storage, offset, size, stride, *_ = args
    need(isinstance(size, tuple) and len(size) == len(stride) == 1, f"a tensor of shape {size}")
    values = _storage(storage, path)
    places = offset + stride[0] * np.arange(size[0])
    need(not places.size or 0 <= places.min() <= places.max() < len(values), "a tensor that reaches beyond its storage")
    return values[places]


def _storage(part: Any, path: Path) -> np.ndarray:
    """Five pickles (a magic number, a version, facts of the machine, a reference, its key), a length, the numbers."""
    need(role_of(part) == "storage" and isinstance(part.args[0], bytes), "a tensor without its numbers")
    stream = io.BytesIO(part.args[0])
    _, _, machine, reference, _ = (_VectorReader(stream, path).load() for _ in range(5))
    need(isinstance(machine, dict) and machine.get("little_endian") is True, "a tensor of a big-endian machine")
    need(isinstance(reference, tuple) and reference[0] == "storage", "a tensor without its numbers")
    kind = reference[1].role.removeprefix("storage of ")
    count = int.from_bytes(stream.read(8), "little")
    return np.frombuffer(stream.read(), f"<{kind}", count=count)
