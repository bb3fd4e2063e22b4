"""Source format ``pdgrapher``: the samples of PDGrapher, one file of torch_geometric objects for each cell line.

PDGrapher (https://github.com/mims-harvard/PDGrapher, doi:10.1038/s41551-025-01481-x) publishes
``data_backward_<line>.pt``, a list of ``Data``: ``perturbagen_name``, the profiles ``diseased`` (the control) and
``treated``, ``gene_symbols``, and ``intervention`` and ``mutations``, which are not read here. There is no dose, plate
or time. Its folds refer to samples by their place in that list; see the split type ``pdgrapher``. The entry that maps
all of it::

    kind: profile
    source: {format: pdgrapher, files: {A549: "{data}/data_backward_A549.pt", PC3: "{data}/data_backward_PC3.pt"}}
    columns:
      perturbation: {from: perturbation, control: control, separator: null}
      context: cell_id
      modality: {value: drug}
      control_id: control_id
      keep: [idx]

Read by :mod:`trueshift.data.pickles.torch_file`, which runs nothing of a file.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from trueshift.contract import CONTROL, ContractError
from trueshift.data.options import choices
from trueshift.data.pickles import torch_file

FILES = ("files",)
READ = ("perturbagen_name", "diseased", "treated", "gene_symbols")
PROFILES = ("diseased", "treated")


def read(files: Mapping[str, str | Path], log: Callable[[str], None] = print) -> ad.AnnData:
    """Reads ``files``, cell line → file, as profiles × genes: each line's treated samples, then its distinct controls.

    - ``files``: The file of each cell line, data_backward_<line>.pt, by the name of the line.

    X is float32, shape (samples + distinct controls, genes), in the units of the files. Control profiles of one line
    that are the same to the bit are one row. obs: ``perturbation`` (perturbagen_name; ``control`` for controls),
    ``cell_id``, ``idx`` (as text: the place of a sample in its line's list, from 0; "" for controls), ``is_control``
    and ``control_id`` (the row that is the control; "" for controls). Rows are named ``<line>:<idx>`` and
    ``<line>:control<number>``; genes by ``gene_symbols``. Memory: twice the result, or the result so far and what is
    read of one file.

    Raises :class:`ContractError` on files that are not such lists, on attributes that lack, on profiles of another
    length than the genes, on genes that differ between samples or lines, and on values that are not finite numbers.
    """
    if not files:
        raise ContractError("source pdgrapher: files is empty; give a file for each cell line")
    genes: list[str] = []
    tables: list[pd.DataFrame] = []
    blocks: list[np.ndarray] = []
    for line, path in files.items():
        samples = torch_file.read(path, only=READ)
        if not isinstance(samples, list) or not samples:
            raise ContractError(f"{path}: holds {_what(samples)}, not a list of samples (torch_geometric Data)")
        symbols = _symbols(samples, path)
        _check_genes(symbols, genes or symbols, path, files)
        genes = symbols
        table, values = _line(str(line), samples, genes, path)
        tables.append(table)
        blocks += values
        log(f"{line}: {(~table['is_control']).sum()} samples with {table['is_control'].sum()} distinct controls")
    return ad.AnnData(np.vstack(blocks), obs=pd.concat(tables), var=pd.DataFrame(index=pd.Index(genes)))


def _what(content: Any) -> str:
    if isinstance(content, np.ndarray):
        return "an array"
    return "an empty list" if content == [] else f"a {type(content).__name__.lower()}"


def _symbols(samples: list[Any], path: str | Path) -> list[str]:
    """The genes of the first sample, after checking that every sample is one and has the same."""
    first: Any = None
    symbols: list[str] = []
    for idx, sample in enumerate(samples):
        if not isinstance(sample, torch_file.Record):
            raise ContractError(f"{path}: sample {idx} is {_what(sample)}, not a torch_geometric Data; leave it out")
        lacks = next((name for name in READ if name not in sample.attributes), None)
        if lacks:
            raise ContractError(f"{path}: sample {idx} has no attribute '{lacks}'; {choices(lacks, sample.names)}")
        given = sample.attributes["gene_symbols"]
        if given is first:
            continue
        names = given.tolist() if isinstance(given, np.ndarray) else given
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ContractError(f"{path}: gene_symbols of sample {idx} is not a list of names")
        if not idx:
            first, symbols = given, list(names)
        elif list(names) != symbols:
            raise ContractError(f"{path}: sample {idx} has other gene_symbols than sample 0; all must have the same")
    twice = pd.Index(symbols)[pd.Index(symbols).duplicated()]
    if len(twice):
        raise ContractError(f"{path}: gene '{twice[0]}' occurs twice in gene_symbols; make them unique")
    return symbols


def _check_genes(symbols: list[str], expected: list[str], path: str | Path, files: Mapping[str, str | Path]) -> None:
    if symbols == expected:
        return
    other = next(iter(files.values()))
    lone = sorted(set(symbols) ^ set(expected))
    what = f"gene '{lone[0]}' is in only one of this and" if lone else "the genes are in another order than in"
    raise ContractError(f"{path}: {what} {other}; write the same genes in the same order for all cell lines")


def _line(line: str, samples: list[Any], genes: list[str], path: str | Path) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """The rows of one cell line and their values, row by row or in blocks; samples are dropped as they are read."""
    count = len(samples)
    if count * len(genes) > Path(path).stat().st_size:  # a small file would become a table of any size
        raise ContractError(f"{path}: {count} samples × {len(genes)} genes, but the file is smaller; write them anew")
    values = np.empty((count, len(genes)), dtype=np.float32)
    controls: list[np.ndarray] = []
    number: dict[bytes, int] = {}
    which, drugs = np.empty(count, dtype=np.int64), []
    for idx in range(count):
        attributes, samples[idx] = samples[idx].attributes, None
        name = attributes["perturbagen_name"]
        if not isinstance(name, str) or not name.strip() or name == CONTROL:
            raise ContractError(
                f"{path}: perturbagen_name of sample {idx} is {str(name)[:40]!a}; it must be the name of what was "
                f"given, and not '{CONTROL}', which is what controls are named here"
            )
        drugs.append(name)
        control, values[idx] = (_profile(attributes[key], key, idx, genes, path) for key in PROFILES)
        key = hashlib.blake2b(control.tobytes(), digest_size=16).digest()
        if key not in number:
            number[key] = len(controls)
            controls.append(control)
        which[idx] = number[key]

    names = [f"{line}:control{i + 1}" for i in range(len(controls))]
    obs = pd.DataFrame(index=pd.Index([*(f"{line}:{idx}" for idx in range(count)), *names]))
    obs["perturbation"] = [*drugs, *[CONTROL] * len(controls)]
    obs["cell_id"] = line
    obs["idx"] = [*map(str, range(count)), *[""] * len(controls)]
    obs["is_control"] = np.arange(len(obs)) >= count
    obs["control_id"] = [*(names[i] for i in which), *[""] * len(controls)]
    return obs, [values, *controls]


def _profile(values: Any, name: str, idx: int, genes: list[str], path: str | Path) -> np.ndarray:
    """A profile as float32, shape (G,)."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise ContractError(f"{path}: {name} of sample {idx} is not a tensor of numbers")
    if values.shape != (len(genes),):
        raise ContractError(
            f"{path}: {name} of sample {idx} has shape {values.shape}, but there are {len(genes)} gene_symbols; "
            "every profile needs one value for each gene"
        )
    with np.errstate(over="ignore"):
        profile = np.ascontiguousarray(values, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(profile))
    if bad.size:
        raise ContractError(
            f"{path}: {name} of sample {idx} is {values[bad[0]]} in gene {genes[bad[0]]}; fill such values in or "
            "leave the sample out (then PDGrapher's folds no longer fit)"
        )
    return profile
