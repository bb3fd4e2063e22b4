"""Split type ``pdgrapher``: the folds that PDGrapher publishes (``splits.pt``).

They are lists of samples, by their number within a cell line.

``splits/chemical/<line>/random/5fold/splits.pt`` is a dict of folds 1 to 5, each a dict with
``{train,val,test}_index_backward`` (and ``forward``, None where a line has no such samples); a dict of one fold's lists
alone occurs too.
Folds are drawn over samples: replicates of one drug stand on both sides.

- ``k``: Number of folds, named 1 … k; 1 for a file of one fold alone.
- ``index``: The column, kept by columns: keep, whose whole numbers the folds list.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trueshift.contract import ContractError
from trueshift.data.options import did_you_mean
from trueshift.data.pickles.torch_file import read
from trueshift.data.roles import Cells

ASKS = "seen"
SETTINGS = {"k": 5, "files": None, "index": "idx"}
KEYS = {"k": {"type": "integer", "minimum": 1}, "index": {"type": "string"}}
FILES = "files"
LISTED = ("train", "val", "test")


def listed(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
    """The role of every cell as the files (``files``: context → file) list it in ``fold``, shape (N,); "" for controls.

    A list's numbers are those of the column ``index`` within the context, wherever the rows stand.

    Raises :class:`ContractError` if the column lacks, is not of whole numbers or names two samples of a context alike;
    if a perturbed cell is in no list, or its context has no file; if a number is not in the data, or in two lists.
    """
    files, index = chosen["files"], chosen["index"]
    number = _numbers(cells, index)
    there = set(cells.context[cells.perturbed])
    for context in files:
        if context not in there:
            raise ContractError(f"split: files: no perturbed cells of context {context}{did_you_mean(context, there)}")
    roles = np.full(len(cells.names), "", dtype=object)
    for context in sorted(there & set(files)):
        rows = np.flatnonzero(cells.perturbed & (cells.context == context))
        row_of = pd.Series(rows, index=number[rows])
        if not row_of.index.is_unique:
            twice = row_of.index[row_of.index.duplicated()][0]
            one, other = cells.names[row_of[twice].to_numpy()[:2]]
            raise ContractError(
                f"split: {index} {twice} of context {context} stands for two cells, {one} and {other}; "
                f"{index} must number the samples of a cell line"
            )
        _place(roles, row_of, read_lists(files[context], fold), index, context, files[context])
    lost = np.flatnonzero(cells.perturbed & (roles == ""))
    if len(lost):
        first = lost[0]
        context = cells.context[first]
        remedy = (
            f"no list of {files[context]} has its {index} {number[first]}; is the file of another version of the data?"
            if context in files
            else f"its context {context} has no file; add it to files:, or leave the context out with filter:"
        )
        raise ContractError(
            f"split: {len(lost)} of {cells.perturbed.sum()} perturbed cells have no role, first {cells.names[first]}: "
            f"{remedy}"
        )
    return roles


def _place(
    roles: np.ndarray, row_of: pd.Series, lists: Mapping[str, np.ndarray], index: str, context: str, path: str | Path
) -> None:
    """Writes the roles of one context's cells."""
    for role, numbers in lists.items():
        absent = numbers[~np.isin(numbers, row_of.index)]
        if len(absent):
            largest = row_of.index.max()
            raise ContractError(
                f"{path}: {len(absent)} of {len(numbers)} samples listed under {role} are not in the data, first "
                f"{absent[0]} ({index} of {context} goes from {row_of.index.min()} to {largest}); is the file of "
                "another cell line, or were samples left out by filter: or qc:?"
            )
        rows = row_of[numbers].to_numpy()
        again = np.flatnonzero((roles[rows] != "") | pd.Series(rows).duplicated().to_numpy())
        if len(again):
            before = roles[rows[again[0]]] or role
            raise ContractError(
                f"{path}: sample {numbers[again[0]]} is listed under {before} and under {role} ({len(again)} such "
                "samples); list each once"
            )
        roles[rows] = role


def _numbers(cells: Cells, index: str) -> np.ndarray:
    """The column of sample numbers, -1 for controls."""
    obs = cells.obs
    if index not in obs:
        raise ContractError(
            f"split: the data have no column {index}{did_you_mean(index, list(obs))}; carry it along with "
            f"columns: keep: [{index}], or name another with index:"
        )
    numbers = np.full(len(obs), -1, dtype=np.int64)
    texts = obs[index].astype(str).str.removesuffix(".0").to_numpy()
    for row in np.flatnonzero(cells.perturbed):
        if not re.fullmatch(r"\d{1,18}", texts[row]):
            raise ContractError(
                f"split: {index} of {cells.names[row]} is '{texts[row]}', must be the number of a sample (0, 1, …)"
            )
        numbers[row] = int(texts[row])
    return numbers


def read_lists(path: str | Path, fold: str) -> dict[str, np.ndarray]:
    """The numbers listed under train, val and test (backward) in one fold of a ``splits.pt``, int64 arrays.

    A file of one fold alone has fold 1. Raises :class:`ContractError` if the fold or a list lacks.
    """
    if not Path(path).exists():
        raise ContractError(f"{path}: no such file (split, files:)")
    content = read(path)
    if not isinstance(content, dict):
        raise ContractError(f"{path}: holds a {type(content).__name__}, not a dict of folds")
    single = any(str(key).endswith("_backward") for key in content)
    folds = {"1": content} if single else {str(key): value for key, value in content.items()}
    if fold not in folds:
        few = f"; it is of one fold alone: say k: {len(folds)}" if single else ""
        raise ContractError(f"{path}: no fold {fold}{did_you_mean(fold, folds)}{few}")
    return {role: _list(folds[fold], f"{role}_index_backward", fold, path) for role in LISTED}


def _list(lists: Any, key: str, fold: str, path: str | Path) -> np.ndarray:
    if not isinstance(lists, dict) or key not in lists:
        known = list(lists) if isinstance(lists, dict) else []
        raise ContractError(f"{path}: fold {fold} has no {key}{did_you_mean(key, known)}")
    given = lists[key]
    numbers = given if isinstance(given, np.ndarray) else np.empty((0, 0))
    if isinstance(given, list) and all(type(number) is int for number in given):
        numbers = np.array(given, dtype=np.int64)
    if numbers.ndim != 1 or (numbers.size and (numbers.dtype.kind not in "iu" or numbers.min() < 0)):
        raise ContractError(f"{path}: {key} of fold {fold} is not a list of sample numbers (0, 1, …)")
    return numbers.astype(np.int64)
