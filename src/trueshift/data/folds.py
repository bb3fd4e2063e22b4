"""What the types of splits share: units dealt to k folds, the names that a fold lists, streams of random numbers."""

from typing import Any

import numpy as np

from trueshift.contract import ContractError
from trueshift.data.options import did_you_mean
from trueshift.data.roles import Cells

# One stream of random numbers per purpose, so that changing one setting leaves the others' draws alone.
FOLDS, KEPT, HALVES, VALIDATION = range(4)


def dealt(units: list[Any], chosen: dict[str, Any], fold: str, what: str) -> list[Any]:
    """The units of one of k folds of the shuffled units."""
    k = int(chosen["k"])
    if len(units) < k:
        raise ContractError(f"split: {k} folds of {len(units)} {what}; lower k")
    order = np.random.default_rng([chosen["seed"], FOLDS]).permutation(len(units))
    return [units[i] for i in order[int(fold) - 1 :: k]]


def named(value: Any) -> list[str]:
    """What a fold holds out, as text: one name, or a list of them."""
    return [str(v) for v in value] if isinstance(value, list | tuple) else [str(value)]


def perturbed_in(cells: Cells, context: str, fold: str) -> np.ndarray:
    """The perturbed cells of a context; a :class:`ContractError` if there are none."""
    there = cells.context == context
    if not there.any():
        raise ContractError(f"split: fold {fold}: no context {context}{did_you_mean(context, set(cells.context))}")
    if not (there & cells.perturbed).any():
        raise ContractError(f"split: fold {fold}: context {context} has no perturbed cells to test on")
    return there & cells.perturbed
