"""The top-k family: how well the effect on the k most differentially expressed genes is predicted.

The genes are the first k of the truth's own order (adjusted p, then |difference of means|), the same for all models.
"""

import numpy as np

from trueshift.evaluation.metrics.delta import constancy, correlation, is_constant, within
from trueshift.evaluation.metrics.pair import Pair, Values, values


def r2_topk(pair: Pair, k: int) -> Values:
    """The headline: 1 − Σ(δ − δ̂)² / Σδ². 0 for "no effect", 1 for perfect, unclipped; sees sign and scale.

    Equals ``sklearn.metrics.r2_score([δ, −δ], [δ̂, −δ̂])``.
    """
    top = pair.top(k)
    error, total = _squares(top.delta - top.delta_hat), _squares(top.delta)
    return values(r2(error, total), {"no true difference": within(top.delta, top.noise)})


def r2_centered_topk(pair: Pair, k: int) -> Values:
    """1 − Σ(δ − δ̂)² / Σ(δ − mean δ)², as in ``sklearn.metrics.r2_score(δ, δ̂)``.

    Relative to the mean of the top genes: where they move together it falls far below 0 for good predictions.
    """
    top = pair.top(k)
    return r2_centered(top.delta, top.delta_hat, is_constant(top.delta, top.noise))


def pearson_topk(pair: Pair, k: int) -> Values:
    """Pearson's r of δ and δ̂, with its sign."""
    top = pair.top(k)
    return correlation(top.delta, top.delta_hat, *constancy(top))


def pearson2_topk(pair: Pair, k: int) -> Values:
    """Square of Pearson's r of δ and δ̂: blind to sign and scale."""
    r = pearson_topk(pair, k)
    return r._replace(value=r.value**2)


def r2_centered(true: np.ndarray, predicted: np.ndarray, constant_truth: np.ndarray) -> Values:
    """1 − Σ(a − â)² / Σ(a − mean a)² of the rows of two arrays (C, G), given which true rows (C,) are constant."""
    spread = _squares(true - true.mean(axis=1, keepdims=True))
    return values(r2(_squares(true - predicted), spread), {"constant truth": constant_truth})


def r2(error: np.ndarray, total: np.ndarray) -> np.ndarray:
    """1 − error / total, NaN where the total is 0."""
    return 1 - np.divide(error, total, out=np.full_like(error, np.nan), where=total > 0)


def _squares(a: np.ndarray) -> np.ndarray:
    return (a**2).sum(axis=1)
