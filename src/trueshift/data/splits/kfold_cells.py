"""Split type ``kfold_cells``: 1/k of the cells of every condition."""

from typing import Any

import numpy as np

from trueshift.data.folds import FOLDS
from trueshift.data.roles import Cells

ASKS = "seen"
SETTINGS = {"k": 5}


def tested(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
    """Deals the shuffled cells of each condition to the folds in turn, one condition after the other."""
    rows = np.flatnonzero(cells.perturbed)
    draws = cells.random(rows, chosen["seed"], FOLDS)
    rows = rows[np.lexsort((draws, cells.condition[rows]))]
    tested = np.zeros(len(cells.names), dtype=bool)
    tested[rows[int(fold) - 1 :: int(chosen["k"])]] = True
    return tested
