"""Errors weighted by how clearly each gene responds, so that the many genes that do not cannot hide the few that do.

Mejia et al., "Diversity by Design", arXiv 2506.22641: w ∝ the square of |DE score|, scaled to 0 … 1 within the
condition, Σw = 1. There, the score is a t-test against all other perturbations and δ is against their mean; here, the
score is the rank-sum statistic against reference controls and δ as everywhere.
"""

import numpy as np

from trueshift.evaluation.metric import ERROR, R2, metric
from trueshift.evaluation.metrics.topk import r2
from trueshift.evaluation.pair import Pair, Values, values

_WEIGHTED = "Mejia et al., arXiv 2506.22641"


@metric(
    **R2,
    needs=("controls",),
    formula="1 − Σw(δ − δ̂)² / Σw(δ − Σwδ)², w ∝ (|z| − min |z|)², Σw = 1, z the rank-sum statistic of truth",
    source=_WEIGHTED,
)
def weighted_r2(pair: Pair) -> Values:
    """1 − Σw(δ − δ̂)² / Σw(δ − Σwδ)², as ``sklearn.metrics.r2_score(δ, δ̂, sample_weight=w)``."""
    weight, undefined = _weights(pair)
    spread = (weight * (pair.delta - (weight * pair.delta).sum(axis=1, keepdims=True)) ** 2).sum(axis=1)
    error = (weight * (pair.delta - pair.delta_hat) ** 2).sum(axis=1)
    undefined["constant truth"] |= spread <= (weight * pair.noise**2).sum(axis=1)
    return values(r2(error, spread), undefined)


@metric(
    **ERROR,
    needs=("controls",),
    formula="Σw(x − x̂)², w as in weighted_r2",
    source=_WEIGHTED,
)
def wmse(pair: Pair) -> Values:
    """Σw(x − x̂)²."""
    weight, undefined = _weights(pair)
    return values((weight * (pair.x - pair.x_hat) ** 2).sum(axis=1), undefined)


def _weights(pair: Pair) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """w, shape (C, G), and where there is none: without a test, or where all genes respond alike."""
    assert pair.z is not None
    size = np.abs(pair.z.astype(np.float64))
    size -= size.min(axis=1, keepdims=True)
    total = (size**2).sum(axis=1, keepdims=True)
    weight = np.divide(size**2, total, out=np.zeros_like(size), where=total > 0)
    return weight, {"no test": np.isnan(size).any(axis=1), "constant truth": total[:, 0] == 0}
