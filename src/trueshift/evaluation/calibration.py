"""The ceiling of a test: how well one half of the treated cells predicts the other.

The test cells of a condition are halved. Half A plays the prediction and subtracts the input controls; half B plays
the truth, with its own tests and gene order against the reference controls. No cell is on both sides.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from trueshift.contract import CONDITION, asked
from trueshift.evaluation.reference import Truth, condition_rows, pseudobulks, truth_statistics
from trueshift.evaluation.scoring import SCORE_COLUMNS, score_profiles

MODEL = "technical_duplicate"
ALONE, IN_MEAN = 60, 20  # test cells from which a condition's own ceiling counts, and from which it enters a mean
CEILING_COLUMNS = ["model", *SCORE_COLUMNS, "ceiling_use", "n_halvings"]


def duplicate_ceiling(truth: ad.AnnData, statistics: Truth, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Scores of the technical duplicate, averaged over ``settings["duplicate_halvings"]`` random halvings.

    ``truth`` is ``truth.h5ad``, ``statistics`` what :func:`trueshift.evaluation.reference.truth_statistics` makes of
    it; ``settings`` further has ``metrics``, ``k`` and ``seed``. Conditions with fewer than 20 test cells have no row.

    One row per condition × metric × k, columns :data:`CEILING_COLUMNS`. ``value`` is the mean over the ``n_halvings``
    halvings that have a value. What describes the condition (n_deg, n_cells, flags, …) is that of all its test cells,
    and so is whether it has an effect: a value never depends on which half happened to show one. ``ceiling_use`` is
    ``condition`` from 60 test cells on, else ``mean``: too noisy alone, good in a mean over conditions.
    """
    known = statistics.conditions
    enough = np.flatnonzero(known["n_cells"] >= IN_MEAN)
    if not len(enough):
        return pd.DataFrame(columns=CEILING_COLUMNS)
    index = pd.MultiIndex.from_frame(known[CONDITION])
    codes = index.get_indexer(pd.MultiIndex.from_frame(truth.obs[CONDITION].astype(str)))
    is_test = (truth.obs["role"] == "test").to_numpy()
    kept = truth[~is_test | np.isin(codes, enough)].copy()
    kept.uns["conditions"] = asked(truth).iloc[enough].reset_index(drop=True)
    conditions = known.iloc[enough].reset_index(drop=True)

    frames = []
    for halving in range(int(settings["duplicate_halvings"])):
        rng = np.random.default_rng([int(settings["seed"]), halving])
        frames.append(score_duplicate(kept, conditions, half(kept, rng), settings))
    values = np.stack([frame["value"].to_numpy(float) for frame in frames])
    n_halvings = (~np.isnan(values)).sum(axis=0)
    means = np.where(n_halvings > 0, np.nansum(values, axis=0) / np.maximum(n_halvings, 1), np.nan)
    # of a condition's flags only the last, constant_prediction, differs between halvings: the longer text has it
    flags = pd.concat([frame["flags"] for frame in frames], axis=1).max(axis=1)
    reason = frames[0]["reason"].mask(n_halvings > 0, "")
    use = pd.Series(np.where(frames[0]["n_cells"] >= ALONE, "condition", "mean"))
    ceiling = frames[0].assign(
        value=means, reason=reason, flags=flags, model=MODEL, ceiling_use=use, n_halvings=n_halvings
    )
    return ceiling[CEILING_COLUMNS]


def half(truth: ad.AnnData, rng: np.random.Generator) -> np.ndarray:
    """A mask over the rows of ``truth``: a random half (rounded down) of the test cells of every condition."""
    test = np.flatnonzero((truth.obs["role"] == "test").to_numpy())
    codes = condition_rows(truth.obs.iloc[test], asked(truth), "truth")
    shuffled = rng.permutation(len(test))
    shuffled = shuffled[np.argsort(codes[shuffled], kind="stable")]
    sizes = np.bincount(codes)
    place = np.arange(len(test)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    mask = np.zeros(truth.n_obs, dtype=bool)
    mask[test[shuffled[place < np.repeat(sizes // 2, sizes)]]] = True
    return mask


def score_duplicate(
    truth: ad.AnnData, conditions: pd.DataFrame, in_a: np.ndarray, settings: Mapping[str, Any]
) -> pd.DataFrame:
    """Scores test cells in the mask ``in_a`` as a prediction of the other test cells.

    ``conditions`` (as in :class:`Truth`) describes the conditions of ``truth`` and goes into the rows.
    """
    codes = condition_rows(truth.obs[in_a], asked(truth), "half A of the technical duplicate")
    half_b = replace(truth_statistics(truth[~in_a]), conditions=conditions)
    return score_profiles(pseudobulks(truth.X[in_a], codes, len(conditions)), half_b, settings)
