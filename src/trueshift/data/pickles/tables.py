"""Reads a pickled pandas DataFrame of NumPy arrays without pandas unpickling it.

So the pandas that wrote a file and the one that is installed need not be alike: tried with files of pandas 1.5, 2.3 and
3.1, NumPy 1 and 2, pickle protocols 2 to 5. Text in PyArrow arrays, which pandas 3 writes where PyArrow is installed,
is refused.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trueshift.contract import ContractError
from trueshift.data.canonical.columns import number_text
from trueshift.data.pickles.arrays import ARRAYS, array_of, is_array, name_of
from trueshift.data.pickles.restricted import Form, load, need, refusals

NAMES = """
    pandas.core.frame.DataFrame pandas.core.internals.managers.BlockManager pandas._libs.internals._unpickle_block
    builtins.slice __builtin__.slice
    pandas.core.indexes.base._new_Index pandas.core.indexes.base.Index pandas.core.indexes.range.RangeIndex
    pandas.core.indexes.numeric.Int64Index
    pandas._libs.arrays.__pyx_unpickle_NDArrayBacked
    pandas.core.arrays.categorical.Categorical pandas.core.dtypes.dtypes.CategoricalDtype
    pandas.core.arrays.string_.StringArray pandas.core.arrays.string_.StringDtype pandas._libs.missing.NA
    pandas.DataFrame pandas.Index pandas.RangeIndex pandas.Categorical pandas.CategoricalDtype
    pandas.arrays.StringArray pandas.StringDtype pandas.NA
"""  # a slice says where the columns of a block are; the last two lines are as pandas 3 writes names
FORM = Form(
    "a pickled DataFrame of NumPy arrays",
    ARRAYS | frozenset(NAMES.split()),
    "Write it with DataFrame.to_pickle of pandas 1.5 or later, without compression, its columns NumPy arrays of "
    "numbers or objects; or use another format: table, h5ad",
)


@dataclass
class Table:
    """The columns of a DataFrame by name, each of shape (rows,): numbers as they were stored, or objects."""

    path: Path
    columns: dict[str, np.ndarray]
    rows: int


def read_table(path: str | Path) -> Table:
    """Reads a pickled DataFrame, running nothing of it.

    Memory: twice the bytes of the file while its opcodes are checked, once from then on; in protocol 2, in which values
    are text, up to three times.

    Raises :class:`ContractError` on a pickle that names anything that such a frame does not need, on one of another
    form, on a damaged file, and on a column that occurs twice.
    """
    path = Path(path)
    with refusals(path, FORM), path.open("rb") as stream:
        names, columns = _columns(load(stream, path, FORM), path.stat().st_size)
    if len(columns) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ContractError(f"{path}: column '{twice}' occurs twice; remove one")
    return Table(path, columns, len(columns[names[0]]))


def _columns(frame: Any, size: int) -> tuple[list[str], dict[str, np.ndarray]]:
    """The names in order and the columns by name; those of one block are views of one array."""
    need(name_of(frame) == "DataFrame" and isinstance(frame.state, dict), f"'{name_of(frame)}', not a DataFrame")
    manager = frame.state.get("_mgr")
    need(name_of(manager) == "BlockManager" and len(manager.args) == 2, "a DataFrame of an old pandas")
    stored, axes = manager.args
    names = [number_text(name) for name in _names(axes[0])]
    columns: list[np.ndarray | None] = [None] * len(names)
    room = size
    for block in stored:
        need(name_of(block) == "_unpickle_block", "a block of another kind")
        values, where, *_ = block.args
        values = np.atleast_2d(_values(values))
        room -= values.size
        need(room >= 0, "blocks that share their values")  # a small file would become a table of any size
        places = np.arange(len(names))[where] if isinstance(where, slice) else array_of(where)
        need(values.ndim == 2 and places.shape == values.shape[:1], "a block whose columns have no place")
        need(places.dtype.kind == "i", "a block whose columns have no place")
        for place, column in zip(places.tolist(), values, strict=True):
            need(0 <= place < len(names) and columns[place] is None, "columns in an impossible place")
            columns[place] = column
    found = [column for column in columns if column is not None]
    need(found and len(found) == len(names), "names without columns")
    need(len({len(column) for column in found}) == 1, "columns of different lengths")
    return names, dict(zip(names, found, strict=True))


def _values(note: Any) -> np.ndarray:
    """The values of a block or an index: an array, or one of pandas' own over a NumPy array, as objects."""
    if name_of(note) != "__pyx_unpickle_NDArrayBacked":
        return array_of(note)
    inner = next(array_of(part) for part in note.state if is_array(part))
    if note.args[0].__name__ != "Categorical":
        return inner
    dtype = next(part for part in note.state if name_of(part) == "CategoricalDtype")
    labels = np.append(_names(dtype.state["categories"]).astype(object), np.nan)
    need(inner.dtype.kind == "i" and inner.ndim == 1, "categories without codes")
    need(not inner.size or -1 <= inner.min() <= inner.max() < len(labels) - 1, "a category that does not exist")
    return labels[inner]


def _names(note: Any) -> np.ndarray:
    need(name_of(note) == "_new_Index" and isinstance(note.args[1], dict), "an index of another kind")
    need("data" in note.args[1], "columns that have no names")
    names = _values(note.args[1]["data"])
    need(names.ndim == 1, "an index of more than one level")
    return names
