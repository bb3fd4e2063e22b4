"""Means over conditions and their intervals, by the unit that the split holds out."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

BOOTSTRAP_FROM, T_FROM = 20, 5  # clusters
N_BOOTSTRAP = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """A 95% interval; ``low`` and ``high`` are NaN where there is none. ``ci_method`` says how it was made."""

    low: float
    high: float
    ci_method: str


def interval(values: np.ndarray, clusters: np.ndarray, seed: int) -> Interval:
    """The interval of the mean over conditions, ``np.mean(values)``, in which every condition weighs the same.

    ``values`` (n,) are defined scores, one per condition, seeds averaged before; ``clusters``
    (n,) names the held-out unit of each (perturbation, context, donor, …). Conditions of one cluster are not
    independent: clusters are, and the interval is over which clusters were drawn. With m clusters:

    - m ≥ 20, ``cluster bootstrap``: m clusters are drawn with replacement 2,000 times, the mean over all their
      conditions is taken each time; 2.5 and 97.5 percentiles (Field & Welsh, J. R. Stat. Soc. B 2007).
    - 5 ≤ m < 20, ``cluster t``: mean ± t(m − 1) · s, where s² = m / (m − 1) · Σ_c (Σ_{i in c} (y_i − mean))² / n², the
      linearised variance of a ratio of cluster totals (Cochran, Sampling Techniques, 1977, ch. 6). With clusters of
      equal size this is the usual t-interval on the m cluster means.
    - m < 5, ``none (m clusters)``: no interval; list the values.

    Raises ``ValueError`` if a value is NaN: undefined scores are counted by the caller, not averaged.
    """
    values = np.asarray(values, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("undefined values have no interval; leave them out and count them")
    codes, names = pd.factorize(np.asarray(clusters))
    m = len(names)
    if m < T_FROM:
        return Interval(np.nan, np.nan, f"none ({m} cluster{'s' if m != 1 else ''})")
    sums, sizes = np.bincount(codes, weights=values), np.bincount(codes)
    if m < BOOTSTRAP_FROM:
        mean = values.mean()
        error = np.sqrt(m / (m - 1) * ((sums - sizes * mean) ** 2).sum()) / len(values)
        margin = stdtrit(m - 1, (1 + LEVEL) / 2) * error
        return Interval(float(mean - margin), float(mean + margin), "cluster t")
    draws = np.random.default_rng([seed]).multinomial(m, np.full(m, 1 / m), size=N_BOOTSTRAP)
    means = (draws @ sums) / (draws @ sizes)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), "cluster bootstrap")
