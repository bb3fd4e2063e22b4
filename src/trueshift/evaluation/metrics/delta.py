"""How well the predicted effect points where the true effect points, over all genes.

δ = x − c_ref and δ̂ = x̂ − c_in subtract different controls, so no noise is shared (Pair). A constant prediction
scores 0 and is marked; a constant truth is undefined.
"""

import numpy as np
import pandas as pd

from trueshift.evaluation.metrics.pair import Pair, Values, values


def pearson_delta(pair: Pair) -> Values:
    """Pearson's r of δ and δ̂ over the genes of a condition."""
    return correlation(pair.delta, pair.delta_hat, pair)


def spearman_delta(pair: Pair) -> Values:
    """Spearman's ρ of δ and δ̂: Pearson's r of their ranks, ties at their mean rank."""
    return correlation(_ranks(pair.delta), _ranks(pair.delta_hat), pair)


def cosine_delta(pair: Pair) -> Values:
    """Cosine of the angle between δ and δ̂. A prediction of no effect scores 0 and is marked as constant."""
    dot = (pair.delta * pair.delta_hat).sum(axis=1)
    norms = np.linalg.norm(pair.delta, axis=1) * np.linalg.norm(pair.delta_hat, axis=1)
    still = _within(pair.delta_hat, pair.noise_hat)
    return values(_ratio(dot, norms, still), {"no true difference": _within(pair.delta, pair.noise)}, still)


def correlation(true: np.ndarray, predicted: np.ndarray, pair: Pair) -> Values:
    """Pearson's r of two arrays (C, G) made from the effects of ``pair``, which says what is constant."""
    a = true - true.mean(axis=1, keepdims=True)
    b = predicted - predicted.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    constant = is_constant(pair.delta_hat, pair.noise_hat)
    r = _ratio((a * b).sum(axis=1), norms, constant)
    return values(r, {"constant truth": is_constant(pair.delta, pair.noise)}, constant)


def is_constant(effect: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Whether each row of (C, G) is the same for all genes, up to rounding."""
    return _within(effect - effect.mean(axis=1, keepdims=True), noise)


def _within(effect: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return np.abs(effect).max(axis=1) <= noise.max(axis=1)


def _ratio(a: np.ndarray, b: np.ndarray, zero: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a), where=(b > 0) & ~zero)


def _ranks(effect: np.ndarray) -> np.ndarray:
    return pd.DataFrame(effect).rank(axis=1).to_numpy()
