"""The ceiling of a test: how well one half of the treated cells predicts the other.

Half A of the test cells plays the prediction and subtracts the input controls; half B plays the truth, with its own
tests and gene order against the reference controls. No cell is on both sides.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from trueshift.evaluation.halves import Duplicates, Halves
from trueshift.evaluation.predicted import Predicted
from trueshift.evaluation.scoring import SCORE_COLUMNS, make_pair, mean_defined, score_pair
from trueshift.evaluation.truth import Truth

TECHNICAL, INTERPOLATED = "technical_duplicate", "interpolated_duplicate"
ALONE = 60  # test cells from which a condition's own ceiling counts; below, down to 20, it enters means only
CEILING_COLUMNS = ["model", *[c for c in SCORE_COLUMNS if c not in ("value_half", "n_halvings")]]
CEILING_COLUMNS += ["ceiling_use", "n_halvings"]


def ceiling(truth: Truth, halves: Halves, duplicates: Duplicates, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Scores of the technical duplicate, averaged over the halvings; conditions with fewer than 20 cells have no row.

    ``settings`` has ``metrics`` and ``k``; with ``interpolated_duplicate`` that is scored too, see
    :func:`interpolated`. One row per model × condition × metric × k, columns :data:`CEILING_COLUMNS`. ``value`` is the
    mean over the ``n_halvings`` halvings that have a value. What describes the condition (n_deg, n_cells, flags, …) is
    that of all its test cells, and so is whether it has an effect: a value never depends on which half happened to
    show one. ``ceiling_use`` is ``condition`` from 60 test cells on, else ``mean``: too noisy alone, good in a mean
    over conditions.
    """
    if not len(halves.conditions):
        return pd.DataFrame(columns=CEILING_COLUMNS)
    models = [TECHNICAL, *([INTERPOLATED] if settings.get("interpolated_duplicate") else [])]
    found: dict[str, list[pd.DataFrame]] = {model: [] for model in models}
    for halving in range(len(halves)):
        half_b, test = halves.truth(halving, truth), duplicates.test(halving)
        half_a = Predicted(duplicates.mean[halving], duplicates.variance[halving], test, test)
        pair = make_pair(half_b, half_a, duplicates.terms(halving, halves))
        found[TECHNICAL].append(score_pair(pair, half_b, settings))
        if INTERPOLATED in found:
            mixed = Predicted(interpolated(half_b, half_a))
            found[INTERPOLATED].append(score_pair(make_pair(half_b, mixed), half_b, settings))
    return pd.concat([_averaged(frames, model) for model, frames in found.items()], ignore_index=True)


def interpolated(half_b: Truth, half_a: Predicted) -> np.ndarray:
    """The interpolated duplicate, shape (C, G): half A where it shows an effect, the mean effect elsewhere.

    x̂ = c_in + w (x_A − c_in) + (1 − w) δ̄ with w = 1 − adjusted p of half A against the input controls, gene by gene:
    what is noise in the duplicate gives way to what all perturbations share. It uses truth, so it is a ceiling and no
    model. Others blend a duplicate with the mean effect too; these weights are ours.
    """
    test = half_a.test
    weight = 1 - test.p_adjusted if test is not None else np.ones(half_a.mean.shape)
    shared = np.nan_to_num(half_b.train_delta)
    return half_b.control_input + weight * (half_a.mean - half_b.control_input) + (1 - weight) * shared


def _averaged(frames: list[pd.DataFrame], model: str) -> pd.DataFrame:
    values, n_halvings = mean_defined(np.stack([frame["value"].to_numpy(float) for frame in frames]))
    # of a condition's flags only the last, constant_prediction, differs between halvings: the longer text has it
    flags = pd.concat([frame["flags"] for frame in frames], axis=1).max(axis=1)
    reason = frames[0]["reason"].mask(n_halvings > 0, "")
    use = pd.Series(np.where(frames[0]["n_cells"] >= ALONE, "condition", "mean"))
    made = frames[0].assign(
        value=values, reason=reason, flags=flags, model=model, ceiling_use=use, n_halvings=n_halvings
    )
    return made[CEILING_COLUMNS]
