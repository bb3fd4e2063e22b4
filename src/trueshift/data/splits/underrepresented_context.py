"""Split type ``underrepresented_context``: one context's perturbations but a share α (State, Adduri et al. 2025).

- ``alpha``: Share of the context's perturbations that stays in training.
"""

import zlib
from typing import Any

import numpy as np

from trueshift.contract import ContractError
from trueshift.data.folds import KEPT, named, perturbed_in
from trueshift.data.options import in_range
from trueshift.data.roles import Cells, among

ASKS = "partial_context"
SETTINGS = {"folds": None, "alpha": 0.3}
KEYS = {"alpha": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}}


def tested(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
    """All but a share α of one context's perturbations."""
    in_range(chosen["alpha"], 0, 1, "split: alpha")
    names = named(chosen["folds"][fold])
    if len(names) != 1:
        raise ContractError(f"split: fold {fold}: underrepresented_context takes one context a fold, not {len(names)}")
    there = perturbed_in(cells, names[0], fold)
    labels = sorted(set(cells.label[there]))
    keep = max(1, int(chosen["alpha"] * len(labels) + 1e-9))
    if keep >= len(labels):
        raise ContractError(
            f"split: fold {fold}: alpha {chosen['alpha']:g} keeps {keep} of {len(labels)} perturbations of {names[0]} "
            "in training, so none is left to test; lower alpha or use zero_shot_context"
        )
    rng = np.random.default_rng([chosen["seed"], KEPT, zlib.crc32(names[0].encode())])
    kept = rng.choice(labels, size=keep, replace=False)
    return there & ~among(cells.label, kept)
