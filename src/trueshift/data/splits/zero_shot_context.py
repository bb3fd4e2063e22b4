"""Split type ``zero_shot_context``: all perturbed cells of some contexts (State, Adduri et al. 2025)."""

from typing import Any

import numpy as np

from trueshift.data.folds import dealt, named, perturbed_in
from trueshift.data.roles import Cells

ASKS = "new_context"
SETTINGS = {"k": 5, "folds": None}


def tested(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
    """Every perturbed cell of the contexts named, or of 1/k of the contexts that have such cells."""
    if chosen["folds"] is None:
        names = dealt(sorted(set(cells.context[cells.perturbed])), chosen, fold, "contexts")
    else:
        names = named(chosen["folds"][fold])
    return np.logical_or.reduce([perturbed_in(cells, name, fold) for name in names])
