"""Means over conditions, their ratios and differences, with intervals by the unit that the split holds out."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtr, stdtrit

BOOTSTRAP_FROM, T_FROM, P_FROM = 20, 5, 6  # clusters
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
    independent: clusters are, and the interval is over which clusters were drawn. The mean is the ratio of the
    clusters' totals to their sizes, so this is :func:`ratio_interval` with 1 as denominator.

    Raises ``ValueError`` if a value is NaN: undefined scores are counted by the caller, not averaged.
    """
    return ratio_interval(values, np.ones(len(values)), clusters, seed)


def ratio_interval(numerator: np.ndarray, denominator: np.ndarray, clusters: np.ndarray, seed: int) -> Interval:
    """The interval of a ratio of means over conditions, R = Σa / Σb.

    ``numerator`` a, ``denominator`` b and ``clusters`` are (n,), one entry per condition; a and b of a condition stay
    together. With m clusters, whose totals are A_c and B_c:

    - m ≥ 20, ``cluster bootstrap``: m clusters are drawn with replacement 2,000 times, ΣA_c / ΣB_c is taken each time;
      2.5 and 97.5 percentiles (Field & Welsh, J. R. Stat. Soc. B 2007). The same seed draws the same clusters for
      every ratio over the same number of clusters.
    - 5 ≤ m < 20, ``cluster t``: R ± t(f) · s, where s² = c · Σ_c (A_c − R·B_c)² / (Σb)², the linearised (Taylor)
      variance of a ratio of cluster totals (Cochran, Sampling Techniques, 1977, ch. 6). With equal B_c, c = m / (m − 1)
      and f = m − 1, and with b = 1 this is the usual t-interval on the m cluster means. Else c makes s² unbiased and f
      is Satterthwaite's, both for clusters whose own ratios vary alike (Bell & McCaffrey, Survey Methodology 2002):
      with m − 1, one cluster that holds most conditions would make false findings several times as frequent.
    - m < 5, ``none (m clusters)``: no interval; list the values.

    There is no interval where Σb is 0, nor a useful one where resampled clusters can change its sign: the caller sees
    to that. Raises ``ValueError`` if a value is NaN.
    """
    a, b = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if np.isnan(a).any() or np.isnan(b).any():
        raise ValueError("undefined values have no interval; leave them out and count them")
    codes, names = pd.factorize(np.asarray(clusters))
    m = len(names)
    if m < T_FROM:
        return Interval(np.nan, np.nan, f"none ({m} cluster{'s' if m != 1 else ''})")
    if b.sum() == 0:
        return Interval(np.nan, np.nan, "none (the denominator is 0)")
    if m < BOOTSTRAP_FROM:
        ratio = a.sum() / b.sum()
        error, freedom = _cluster_error(a - ratio * b, b, codes)
        margin = stdtrit(freedom, (1 + LEVEL) / 2) * error
        return Interval(float(ratio - margin), float(ratio + margin), "cluster t")
    totals = np.stack([np.bincount(codes, weights=a), np.bincount(codes, weights=b)], axis=1)
    drawn = _draws(m, seed) @ totals
    with np.errstate(divide="ignore", invalid="ignore"):  # a draw of clusters without any denominator
        ratios = drawn[:, 0] / drawn[:, 1]
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), "cluster bootstrap")


@lru_cache(maxsize=4)  # a table asks for thousands of intervals over the same clusters
def _draws(m: int, seed: int) -> np.ndarray:
    """How often each of m clusters is drawn in each resample, (2,000, m)."""
    draws = np.random.default_rng([seed]).multinomial(m, np.full(m, 1 / m), size=N_BOOTSTRAP).astype(np.float64)
    draws.flags.writeable = False
    return draws


def _cluster_error(residuals: np.ndarray, denominator: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    """Standard error of a ratio with these residuals a − R·b, and its degrees of freedom.

    With w_c = B_c / ΣB and e_c the total of a cluster's residuals over ΣB, S = Σe². If the clusters' own ratios
    A_c / B_c are independent with one variance v, then R varies by v·Σw², and S is a quadratic form in them, whose
    matrix M = (I − w1ᵀ) diag(w²) (I − 1wᵀ) gives E S = v·tr M and the degrees of freedom (tr M)² / tr M². Both results
    are NaN where one cluster holds the whole denominator.
    """
    w = np.bincount(codes, weights=denominator) / denominator.sum()
    s2, s3, s4, s5 = (np.sum(w**power) for power in (2, 3, 4, 5))
    trace = s2 - 2 * s3 + s2**2
    trace_of_square = s2**4 + 2 * s2 * s4 - 4 * s2**2 * s3 + 2 * s3**2 + s4 * (1 + 2 * s2) - 4 * s5
    squares = np.sum((np.bincount(codes, weights=residuals) / denominator.sum()) ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.sqrt(squares * s2 / trace)), float(trace**2 / trace_of_square)


def wilson(share: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The score interval of a share of n independent units (Wilson, J. Am. Stat. Assoc. 1927), no continuity term.

    ``share`` is in [0, 1] and need not be a multiple of 1/n: it may be a share of conditions, of which several belong
    to one unit. NaN for n = 0.
    """
    if n == 0:
        return np.nan, np.nan
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies between 0 and 1, not at {share}")
    z2 = ndtri((1 + level) / 2) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    margin = np.sqrt(z2 * share * (1 - share) / n + z2**2 / (4 * n**2)) / (1 + z2 / n)
    return float(centre - margin), float(centre + margin)


def paired_p(differences: np.ndarray, clusters: np.ndarray) -> float:
    """Two-sided p of a mean difference of 0 over conditions that both sides have, by clusters.

    ``differences`` and ``clusters`` are (n,). The t statistic is the mean over the linearised standard error of
    :func:`ratio_interval`, with its degrees of freedom; with one condition per cluster it is the paired t-test.
    With five clusters or fewer the answer is NaN: not testable, for not even the strictest test that assumes no
    distribution, all differences of one sign, can reach .05 there (2/2⁵ = .0625). A mean of 0 gives 1; the same
    difference everywhere gives 0.

    Raises ``ValueError`` if a difference is NaN.
    """
    differences = np.asarray(differences, dtype=np.float64)
    if np.isnan(differences).any():
        raise ValueError("undefined differences cannot be tested; leave them out and count them")
    codes, names = pd.factorize(np.asarray(clusters))
    m = len(names)
    if m < P_FROM:
        return np.nan
    mean = differences.mean()
    if mean == 0:
        return 1.0
    error, freedom = _cluster_error(differences - mean, np.ones(len(differences)), codes)
    return float(2 * stdtr(freedom, -abs(mean) / error)) if error > 0 else 0.0


def holm(p: np.ndarray) -> np.ndarray:
    """p adjusted for the number of tests by stepping down (Holm, Scand. J. Stat. 1979): the chance of any false one.

    NaN, a test that could not be made, stays NaN and does not count.
    """
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted
