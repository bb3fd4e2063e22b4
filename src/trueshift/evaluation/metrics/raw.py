"""The forms on raw expression that scGen and CPA report: R² of means and of variances, over the top k genes.

Nothing is subtracted, so the differences between genes dominate: values are near 1 for every prediction, "no change"
among them. They stand beside the others to compare with published numbers, and rank nothing.
"""

import numpy as np

from trueshift.evaluation.metric import R2, SHARE, metric
from trueshift.evaluation.metrics.delta import correlation, is_constant
from trueshift.evaluation.metrics.topk import r2_centered
from trueshift.evaluation.pair import ROUNDING, Pair, Values, values

_RAW = "; near 1 for every prediction, for raw levels of genes dominate it"
_SCGEN = "scGen, Lotfollahi, Wolf & Theis 2019"
_CPA = "CPA, Lotfollahi et al. 2023; r2_score in scikit-learn"


@metric(
    **R2,
    needs=("controls",),
    formula="1 − Σ(x − x̂)² / Σ(x − mean x)² over the top k genes" + _RAW,
    source=_CPA,
    per_k=True,
    ranks=False,
)
def r2_mean_topk(pair: Pair, k: int) -> Values:
    """``sklearn.metrics.r2_score(x, x̂)``, as CPA computes it (Lotfollahi et al., Mol. Syst. Biol. 2023)."""
    top = pair.top(k)
    return r2_centered(top.x, top.x_hat, _flat(top.x))


@metric(
    **SHARE,
    needs=("controls",),
    formula="Pearson r(x, x̂)² over the top k genes" + _RAW,
    source=_SCGEN,
    per_k=True,
    ranks=False,
)
def pearson2_mean_topk(pair: Pair, k: int) -> Values:
    """Square of Pearson's r of x and x̂, as scGen plots it (Lotfollahi, Wolf & Theis, Nature Methods 2019)."""
    top = pair.top(k)
    r = correlation(top.x, top.x_hat, _flat(top.x), _flat(top.x_hat))
    return r._replace(value=r.value**2)


@metric(
    **R2,
    needs=("cells", "controls"),
    formula="1 − Σ(v − v̂)² / Σ(v − mean v)² over the top k genes, v the variance over cells" + _RAW,
    source=_CPA,
    per_k=True,
    ranks=False,
)
def r2_var_topk(pair: Pair, k: int) -> Values:
    """``sklearn.metrics.r2_score`` of the variances of true and predicted cells (CPA); n − 1 in both denominators."""
    true, predicted = _variances(pair, k)
    return _of_cells(r2_centered(true, predicted, _flat(true)), pair)


@metric(
    **SHARE,
    needs=("cells", "controls"),
    formula="Pearson r(v, v̂)² over the top k genes, v the variance over cells" + _RAW,
    source=_SCGEN,
    per_k=True,
    ranks=False,
)
def pearson2_var_topk(pair: Pair, k: int) -> Values:
    """Square of Pearson's r of the variances of true and predicted cells (scGen)."""
    true, predicted = _variances(pair, k)
    r = correlation(true, predicted, _flat(true), _flat(predicted))
    return _of_cells(r._replace(value=r.value**2), pair)


def _variances(pair: Pair, k: int) -> tuple[np.ndarray, np.ndarray]:
    top = pair.top(k)
    assert top.variance is not None and top.variance_hat is not None
    return top.variance.astype(np.float64), top.variance_hat.astype(np.float64)


def _of_cells(found: Values, pair: Pair) -> Values:
    assert pair.variance is not None and pair.variance_hat is not None
    single = np.isnan(pair.variance).any(axis=1) | np.isnan(pair.variance_hat).any(axis=1)
    reason = {"fewer than 2 cells": single, "constant truth": found.reason == "constant truth"}
    return values(found.value, reason, found.constant)


def _flat(expression: np.ndarray) -> np.ndarray:
    """Whether each row is constant. The noise of a :class:`Pair` does not serve here: it is that of differences."""
    return is_constant(expression, ROUNDING * np.abs(expression))
