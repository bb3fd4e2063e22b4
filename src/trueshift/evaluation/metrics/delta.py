"""How well the predicted effect points where the true effect points, over all genes.

δ = x − c_ref and δ̂ = x̂ − c_in subtract different controls, so no noise is shared (Pair). A constant prediction
scores 0 and is marked; a constant truth is undefined.
"""

import numpy as np
import pandas as pd

from trueshift.evaluation.metric import CORRELATION, metric
from trueshift.evaluation.pair import Pair, Values, values


@metric(
    **CORRELATION,
    needs=("controls",),
    formula="Pearson r(δ, δ̂) over all genes",
    source="Pearson 1895",
)
def pearson_delta(pair: Pair) -> Values:
    """Pearson's r of δ and δ̂ over the genes of a condition."""
    return correlation(pair.delta, pair.delta_hat, *constancy(pair))


@metric(
    **CORRELATION,
    needs=("controls",),
    formula="Pearson r(rank δ, rank δ̂) over all genes",
    source="Spearman 1904",
)
def spearman_delta(pair: Pair) -> Values:
    """Spearman's ρ of δ and δ̂: Pearson's r of their ranks, ties at their mean rank."""
    return correlation(ranks(pair.delta), ranks(pair.delta_hat), *constancy(pair))


@metric(
    **CORRELATION,
    needs=("controls",),
    formula="Σδδ̂ / (|δ| |δ̂|) over all genes",
    source="cosine similarity",
)
def cosine_delta(pair: Pair) -> Values:
    """Cosine of the angle between δ and δ̂. A prediction of no effect scores 0 and is marked as constant."""
    dot = (pair.delta * pair.delta_hat).sum(axis=1)
    norms = np.linalg.norm(pair.delta, axis=1) * np.linalg.norm(pair.delta_hat, axis=1)
    still = within(pair.delta_hat, pair.noise_hat)
    return values(_ratio(dot, norms, still), {"no true difference": within(pair.delta, pair.noise)}, still)


def correlation(
    true: np.ndarray, predicted: np.ndarray, constant_truth: np.ndarray, constant_prediction: np.ndarray
) -> Values:
    """Pearson's r of the rows of two arrays (C, G), given which rows (C,) are constant on either side."""
    a = true - true.mean(axis=1, keepdims=True)
    b = predicted - predicted.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    r = _ratio((a * b).sum(axis=1), norms, constant_prediction)
    return values(r, {"constant truth": constant_truth}, constant_prediction)


def constancy(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Whether true and predicted effects are constant over genes, both (C,)."""
    return is_constant(pair.delta, pair.noise), is_constant(pair.delta_hat, pair.noise_hat)


def is_constant(effect: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Whether each row of (C, G) is the same for all genes, up to rounding."""
    return within(effect - effect.mean(axis=1, keepdims=True), noise)


def within(effect: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Whether each row of (C, G) is nothing but rounding."""
    return np.abs(effect).max(axis=1) <= noise.max(axis=1)


def _ratio(a: np.ndarray, b: np.ndarray, zero: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a), where=(b > 0) & ~zero)


def ranks(effect: np.ndarray) -> np.ndarray:
    """Ranks within each row of (C, G), ties at their mean rank, NaN for NaN."""
    return pd.DataFrame(effect).rank(axis=1).to_numpy()
