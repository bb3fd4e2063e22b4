"""Source format ``transigen``: L1000 profiles in pairs, as TranSiGen publishes them (``processed_data.h5``).

The HDF5 file (https://github.com/myzhengSIMM/TranSiGen) has one row per pair: ``x1`` the profile of the control,
``x2`` that of the treated cells, float32 (pairs, genes); ``canonical_smiles`` of the drug, ``cid`` the cell line,
``sig`` an id of the pair, and, not in all such files, ``LINCS_index``, the place of the pair in the LINCS tables.

Pairs in canonical form: every profile is a row of its own, and the treated row says in ``control_id`` which row is its
control. A control that several pairs share is one row, so it is on one side of a split only, not copied to both.
The entry that maps all of it::

    kind: profile
    source: {format: transigen, path: "{data}/processed_data.h5", genes: "{data}/landmark_geneinfo.csv"}
    columns:
      perturbation: {from: drug, control: control, separator: null}
      context: cid
      modality: {value: drug}
      control_id: control_id
      keep: [smiles, sig]
"""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from trueshift.contract import CONTROL, ContractError
from trueshift.data.frames import read_frame
from trueshift.data.options import choices

FILES = ("path", "genes")
PROFILES = ("x1", "x2")
TEXTS = ("canonical_smiles", "cid", "sig")
SYMBOL = "gene_symbol"


def read(path: str | Path, genes: str | Path | None = None, log: Callable[[str], None] = print) -> ad.AnnData:
    """Reads pairs as profiles × genes: first the treated, in the order of the file, then each distinct control once.

    - ``path``: The file processed_data.h5; {data} is the data folder.
    - ``genes``: A table with a row for each column of x1 and x2, in their order: names from gene_symbol, or else from
      its first column. Without it genes are G0001, G0002, ….

    The whole table of genes becomes var.

    X is float32, shape (pairs + distinct controls, genes), in the units of the file (log2 intensities). obs: ``drug``
    (the SMILES; ``@``, which labels cannot hold, is written ``at``; ``control`` for controls), ``smiles`` as in the
    file, ``cid``, ``sig``, ``is_control``, ``control_id`` (the row that is the control) and, where the file has it,
    ``LINCS_index``. Treated rows are named by ``sig``, controls ``<cid>:control<number>``. What describes the treated
    alone is missing in controls.

    Raises :class:`ContractError` if keys are missing, if sizes do not match, if a ``sig`` occurs twice, or if a value
    is not finite.
    """
    arrays = _arrays(path)
    control, treated = (arrays[key] for key in PROFILES)
    cid, sig, smiles = (pd.Series(arrays[key], dtype=object) for key in ("cid", "sig", "canonical_smiles"))
    var = _genes(genes, treated.shape[1], path)
    for key in PROFILES:
        bad = np.argwhere(~np.isfinite(arrays[key]))
        if len(bad):
            pair, gene = bad[0]
            raise ContractError(
                f"{path}: {key} of {sig[pair]}, gene {var.index[gene]}, is {arrays[key][pair, gene]}; "
                "leave the pair out or fill it in"
            )
    if sig.duplicated().any():
        raise ContractError(f"{path}: sig '{sig[sig.duplicated()].iloc[0]}' occurs twice; each pair needs its own")

    rows = pd.Series([row.tobytes() for row in control])
    keys = pd.MultiIndex.from_arrays([cid, rows])
    codes, _ = pd.factorize(keys)
    first = np.flatnonzero(~pd.Series(codes).duplicated())
    lines = cid.iloc[first]
    names = (lines + ":control" + (lines.groupby(lines).cumcount() + 1).astype(str)).to_numpy()
    labels = smiles.str.replace("@", "at")
    renamed = smiles[labels != smiles].nunique()
    if renamed:
        log(f"{renamed} SMILES hold '@' (it marks modalities), written as 'at' in drug; smiles has them as they are")

    nothing = np.full(len(first), None, dtype=object)
    obs = pd.DataFrame(
        {
            "drug": np.concatenate([labels, np.full(len(first), CONTROL, dtype=object)]),
            "smiles": np.concatenate([smiles, nothing]),
            "cid": np.concatenate([cid, lines]),
            "sig": np.concatenate([sig, nothing]),
            "is_control": np.arange(len(sig) + len(first)) >= len(sig),
            "control_id": np.concatenate([names[codes], nothing]),
        },
        index=pd.Index(np.concatenate([sig, names])),
    )
    if "LINCS_index" in arrays:
        obs["LINCS_index"] = np.concatenate([arrays["LINCS_index"].astype(object), nothing])
    log(f"{len(sig)} pairs with {len(first)} distinct controls")
    return ad.AnnData(np.vstack([treated, control[first]]), obs=obs, var=var)


def _arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of the file: profiles float32, texts as str; all with one row a pair."""
    try:
        with h5py.File(path, "r") as file:
            missing = [key for key in (*PROFILES, *TEXTS) if key not in file]
            if missing:
                raise ContractError(f"{path}: no {', '.join(missing)}; {choices(missing[0], file)}")
            arrays = {key: file[key][:].astype(np.float32) for key in PROFILES}
            for key in (*TEXTS, *(["LINCS_index"] if "LINCS_index" in file else [])):
                values = file[key][:]
                arrays[key] = np.array([x.decode() if isinstance(x, bytes) else str(x) for x in values], dtype=object)
    except OSError as error:
        raise ContractError(f"{path}: cannot be read as HDF5 ({error})") from error
    shape = arrays["x1"].shape
    if arrays["x2"].shape != shape or len(shape) != 2:
        raise ContractError(f"{path}: x1 is {shape}, x2 is {arrays['x2'].shape}; both must be (pairs, genes)")
    for key, values in arrays.items():
        if len(values) != shape[0]:
            raise ContractError(f"{path}: {key} has {len(values)} rows, x1 has {shape[0]}; one a pair is needed")
    return arrays


def _genes(genes: str | Path | None, count: int, path: str | Path) -> pd.DataFrame:
    if genes is None:
        return pd.DataFrame(index=pd.Index([f"G{i + 1:04d}" for i in range(count)]))
    table = read_frame(genes)
    if len(table) != count:
        raise ContractError(f"{genes}: {len(table)} genes, but profiles of {path} have {count}; give the file's own")
    table = table.astype(str)
    names = table[SYMBOL if SYMBOL in table else table.columns[0]]
    table.index = pd.Index(names.to_numpy())
    if not table.index.is_unique:
        raise ContractError(f"{genes}: gene '{table.index[table.index.duplicated()][0]}' occurs twice")
    return table
