"""Split type ``file``: the roles that a table of the user lists, one file a fold."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trueshift.contract import ROLES, ContractError
from trueshift.data.options import did_you_mean
from trueshift.data.roles import Cells

ASKS = None  # the entry says
SETTINGS = {"folds": None, "asks": None}
FILES = "folds"


def listed(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
    """Roles by cell id; every perturbed cell must be in the file, controls all or none (then their role is empty).

    Ids that are not in the data are left out with a warning, for quality control may have removed such cells.
    """
    path = Path(chosen["folds"][fold])
    if not path.exists():
        raise ContractError(f"{path}: no such file (split, folds:)")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [column for column in ("cell", "role") if column not in table]
    if missing:
        raise ContractError(f"{path}: no column {missing[0]}{did_you_mean(missing[0], list(table.columns))}")
    wrong = table[~table["role"].isin(ROLES)]
    if len(wrong):
        role = wrong["role"].iloc[0]
        raise ContractError(f"{path}: cell {wrong['cell'].iloc[0]} has role {role!r}{did_you_mean(role, ROLES)}")
    twice = table["cell"][table["cell"].duplicated()]
    if len(twice):
        raise ContractError(f"{path}: cell {twice.iloc[0]} has {(table['cell'] == twice.iloc[0]).sum()} rows; keep one")
    rows = pd.Index(cells.names).get_indexer(pd.Index(table["cell"]))
    if not (rows >= 0).any():
        raise ContractError(
            f"{path}: none of its {len(table)} cell ids is in the data "
            f"(file: {table['cell'].iloc[0] if len(table) else 'empty'}, data: {cells.names[0]}); correct the ids"
        )
    if (rows < 0).any():
        gone = f"{path}: {int((rows < 0).sum())} of {len(rows)} cell ids are not in the data (removed by qc?): left out"
        warnings.warn(gone, stacklevel=3)
    roles = np.full(len(cells.names), "", dtype=object)
    roles[rows[rows >= 0]] = table["role"].to_numpy()[rows >= 0]
    for mask, what in ((cells.perturbed, "perturbed"), (cells.control, "control")):
        lost = np.flatnonzero(mask & (roles == ""))
        if len(lost) and (what == "perturbed" or len(lost) < mask.sum()):
            raise ContractError(
                f"{path}: {len(lost)} of {mask.sum()} {what} cells have no role, first {cells.names[lost[0]]}; "
                + ("add them" if what == "perturbed" else "list all controls, or none so that they are halved here")
            )
    return roles
