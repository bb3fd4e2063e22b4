"""Split type ``unseen_dose``: perturbations at some of their doses, while they train at another."""

import warnings
from typing import Any

import numpy as np
import pandas as pd

from trueshift.contract import ContractError, component_doses
from trueshift.data.folds import FOLDS, named
from trueshift.data.options import did_you_mean
from trueshift.data.roles import Cells

ASKS = "new_dose"
SETTINGS = {"k": 5, "folds": None}


def tested(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
    """Perturbations at some of their doses, in every context; at one of their other doses they train.

    With k, the doses of each perturbation are dealt to different folds, as far as there are as many; with folds, those
    named are held out of every perturbation that has another, of combinations if a component has one of them.
    Perturbations without another dose stay in training: a warning counts them.
    """
    given = cells.doses()
    doses = given[cells.perturbed].drop_duplicates().sort_values(["perturbation", "dose"])
    of: dict[str, list[str]] = {str(name): list(part) for name, part in doses.groupby("perturbation")["dose"]}
    if chosen["folds"] is None:
        several = [name for name, amounts in of.items() if len(amounts) > 1]
        rng = np.random.default_rng([chosen["seed"], FOLDS])
        # one perturbation's doses follow one another, so that they go to different folds
        pairs = [(several[i], str(x)) for i in rng.permutation(len(several)) for x in rng.permutation(of[several[i]])]
        if len(pairs) < chosen["k"]:
            raise ContractError(
                f"split: {chosen['k']} folds of {len(pairs)} doses, those of perturbations with more than one; lower k"
            )
        held = set(pairs[int(fold) - 1 :: int(chosen["k"])])
        staying = [name for name, amounts in of.items() if len(amounts) == 1]
        what = "one dose"
    else:
        wanted = _dose_texts(chosen["folds"][fold], {x for dose in doses["dose"] for x in component_doses(dose)}, fold)
        hit = {name: [dose for dose in amounts if wanted & set(component_doses(dose))] for name, amounts in of.items()}
        held = {(name, dose) for name, amounts in hit.items() for dose in amounts if len(amounts) < len(of[name])}
        staying = [name for name, amounts in hit.items() if len(amounts) == len(of[name])]
        what = "no dose but those held out"
        if not held:
            raise ContractError(
                f"split: fold {fold}: no perturbation has both a dose of {', '.join(sorted(wanted))} and another"
            )
    if staying:
        warnings.warn(
            f"split: {len(staying)} of {len(of)} perturbations have {what} and stay in training: "
            f"{', '.join(staying[:5])}",
            stacklevel=3,
        )
    keys = pd.MultiIndex.from_frame(given)
    return np.asarray(keys.isin(list(held))) & cells.perturbed


def _dose_texts(value: Any, known: set[str], fold: str) -> set[str]:
    """Doses as the data write them."""
    wanted = set()
    for name in named(value):
        try:
            wanted.add(f"{float(name):.12g}")
        except ValueError:
            raise ContractError(f"split: fold {fold}: dose {name} is not a number") from None
    for dose in sorted(wanted - known):
        raise ContractError(f"split: fold {fold}: nothing was given at dose {dose}{did_you_mean(dose, known)}")
    return wanted
