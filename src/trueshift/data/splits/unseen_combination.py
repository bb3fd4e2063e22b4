"""Split type ``unseen_combination``: 1/k of the combinations, or those named, as in GEARS (Roohani et al. 2024)."""

from typing import Any

import numpy as np

from trueshift.contract import ContractError
from trueshift.data.folds import dealt, named
from trueshift.data.options import did_you_mean
from trueshift.data.roles import Cells, sorted_components

ASKS = "new_combination"
SETTINGS = {"k": 5, "folds": None}


def tested(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
    """Whole combinations, in whatever order their components are written; singles and other combinations train."""
    pairs = sorted({sorted_components(label) for label in cells.labels if len(sorted_components(label)) > 1})
    if not pairs:
        raise ContractError("split: unseen_combination, but the data hold no combination (A+B); use another type")
    if chosen["folds"] is None:
        held = dealt(pairs, chosen, fold, "combinations")
    else:
        held = [sorted_components(name) for name in named(chosen["folds"][fold])]
        for parts in held:
            if parts not in pairs:
                near = did_you_mean("+".join(parts), ["+".join(pair) for pair in pairs])
                raise ContractError(f"split: fold {fold}: no combination {'+'.join(parts)}{near}")
    return cells.with_label({label for label in cells.labels if sorted_components(label) in set(held)})
