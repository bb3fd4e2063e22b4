"""Systema's reference: the mean training effect, so that only what is specific to a perturbation correlates.

Viñas Torné et al., Nature Biotechnology 2025. Shared by all perturbations, that mean is what is easy to predict; a
prediction of it scores 0 and is marked as constant.
"""

import numpy as np

from trueshift.evaluation.metric import CORRELATION, metric
from trueshift.evaluation.metrics.delta import correlation, is_constant
from trueshift.evaluation.pair import ROUNDING, Pair, Values, values

_SYSTEMA = "Systema, Viñas Torné et al. 2025"


@metric(
    **CORRELATION,
    needs=("training",),
    formula="Pearson r(x − μ, x̂ − μ) over all genes, μ the mean training perturbed centroid of the context",
    source=_SYSTEMA,
)
def systema_pearson(pair: Pair) -> Values:
    """Pearson's r of x − μ_c and x̂ − μ_c, μ_c the mean training perturbed centroid of the condition's context."""
    assert pair.centre is not None
    return _beyond(pair.centre, pair.x, pair.x_hat, np.abs(pair.x), np.abs(pair.x_hat))


@metric(
    **CORRELATION,
    needs=("controls", "training"),
    formula="Pearson r(δ − δ̄, δ̂ − δ̄) over all genes, δ̄ the mean training effect",
    source=_SYSTEMA + "; on effects, for contexts without training perturbations",
)
def systema_pearson_delta(pair: Pair) -> Values:
    """Pearson's r of δ − δ̄ and δ̂ − δ̄, δ̄ the mean training effect over all contexts.

    For contexts without training perturbations: no expression of theirs, only effects, can be known.
    """
    assert pair.mean_delta is not None
    return _beyond(pair.mean_delta, pair.delta, pair.delta_hat, pair.noise / ROUNDING, pair.noise_hat / ROUNDING)


def _beyond(
    reference: np.ndarray, true: np.ndarray, predicted: np.ndarray, size: np.ndarray, size_hat: np.ndarray
) -> Values:
    """Correlation of what is left without the reference; all (C, G), ``size`` the expression that was rounded."""
    unknown = np.isnan(reference).any(axis=1)
    a, b = true - reference, predicted - reference
    noise, noise_hat = (ROUNDING * np.maximum(s, np.abs(reference)) for s in (size, size_hat))
    found = correlation(a, b, is_constant(a, noise), is_constant(b, noise_hat))
    reasons = {"no training effect": unknown, "constant truth": found.reason == "constant truth"}
    return values(found.value, reasons, found.constant)
