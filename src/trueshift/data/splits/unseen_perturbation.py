"""Split type ``unseen_perturbation``: 1/k of the perturbations, or those named, as in GEARS (Roohani et al. 2024)."""

from typing import Any

import numpy as np

from trueshift.contract import ContractError, components
from trueshift.data.folds import dealt, named
from trueshift.data.options import did_you_mean
from trueshift.data.roles import Cells

ASKS = "new_perturbation"
SETTINGS = {"k": 5, "folds": None}


def tested(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
    """Every label that holds a held-out component, combinations included: one would show what the other hides."""
    single = sorted({part for label in cells.labels for part in components(label)})
    if chosen["folds"] is None:
        held = dealt(single, chosen, fold, "perturbations")
    else:
        held = named(chosen["folds"][fold])
        for name in held:
            if name not in single:
                raise ContractError(f"split: fold {fold}: no single perturbation {name}{did_you_mean(name, single)}")
    return cells.with_label({label for label in cells.labels if set(components(label)) & set(held)})
