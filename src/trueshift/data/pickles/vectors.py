"""Reads a dict of vectors by name, ``{text: NumPy array or torch tensor}``, without running anything of the file.

That is how embeddings of molecules are passed on (KPGT: ``{SMILES: 2,304 numbers}``): pickled, or written by
``torch.save``. torch is not imported.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from trueshift.data.pickles import torch_file
from trueshift.data.pickles.arrays import array_of, is_array, name_of
from trueshift.data.pickles.restricted import Form, load, need, refusals

FORM = Form(
    "a dict of vectors",
    torch_file.TENSORS
    | {f"torch.{name}" for name, kind in torch_file.STORAGES.items() if kind.startswith("f")}
    # a tensor that is pickled by itself has its storage as bytes, in the form of torch.save before it wrote zip files
    | {"torch.storage._load_from_bytes"},
    "Write {text: NumPy array} or {text: float tensor}, or use another format: csv, parquet, npz",
)


def read_vectors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads ``{text: vector}``; all vectors have one length, shape (F,).

    Raises :class:`ContractError` on a pickle that names anything but arrays and tensors (nothing of a file is ever
    run), on a damaged file, and on anything that is not a vector of numbers.
    """
    path = Path(path)
    with refusals(path, FORM), path.open("rb") as stream:
        content = torch_file.read(path) if torch_file.is_zip(path) else load(stream, path, FORM)
        need(type(content) is dict and content, f"'{name_of(content)}', or nothing")
        size = path.stat().st_size
        vectors = {name: _vector(name, value, path, size) for name, value in content.items()}
        lengths = {len(values): name for name, values in vectors.items()}
        what = " and ".join(f"{length} that of {name[:60]!a}" for length, name in [*lengths.items()][:2])
        need(len(lengths) == 1, f"vectors of different lengths, {what}")
        need(sum(map(len, vectors.values())) <= size, "vectors that share their values")
    return vectors


def _vector(name: Any, value: Any, path: Path, size: int) -> np.ndarray:
    need(isinstance(name, str), f"a key that is not text, '{name!s:.60}'")
    if name_of(value) == "_rebuild_tensor_v2":
        value = torch_file.view(_storage(value.args[0], path), value.args, size)
    elif is_array(value):
        value = array_of(value)
    need(isinstance(value, np.ndarray), f"a value of kind '{name_of(value)}', that of {name[:60]!a}")
    need(value.ndim == 1 and value.size, f"an array of shape {value.shape}, that of {name[:60]!a}")
    need(value.dtype.kind in "fiub", f"a vector that is not of numbers, that of {name[:60]!a}")
    return value


def _storage(note: Any, path: Path) -> np.ndarray:
    """Five pickles (a magic number, a version, facts of the machine, a reference, its key), a length, the numbers."""
    need(name_of(note) == "_load_from_bytes" and isinstance(note.args[0], bytes), "a tensor without its numbers")
    stream = io.BytesIO(note.args[0])
    _, _, machine, reference, _ = (load(stream, path, FORM) for _ in range(5))
    need(isinstance(machine, dict) and machine.get("little_endian") is True, "a tensor of a big-endian machine")
    need(name_of(reference) == "storage" and reference.args[:1] == ("storage",), "a tensor without its numbers")
    kind = reference.args[1]
    count = int.from_bytes(stream.read(8), "little")
    values = torch_file.numbers(stream.read(), kind, "<")
    need(len(values) == count, f"a storage of {len(values)} values that should have {count}")
    return values
