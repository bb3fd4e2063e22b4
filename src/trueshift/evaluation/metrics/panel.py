"""Whether a prediction is nearer to the truth of its own condition than to that of the others in its panel.

A panel holds the conditions that were tested together in one context. Distances of one prediction that differ by no
more than rounding are ties.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import sparse

from trueshift.evaluation.metric import SHARE, metric
from trueshift.evaluation.metrics.delta import within
from trueshift.evaluation.metrics.ranking import share
from trueshift.evaluation.pair import Pair, Values, once, values

BLOCK = 512  # predictions at a time: bounds memory
STRIP = 32  # truths at a time: they stay in the processor's cache
SAME = 1e-6
"""Distances closer than this share of the lengths of their vectors are equal: predictions are float32."""

Distance = Callable[[np.ndarray, sparse.csr_matrix], tuple[np.ndarray, np.ndarray | float]]
"""From predictions (b, G) to the n truths it was made for, without the genes at 1 in a second array (b, G), where the
predictions are 0 already: distances (b, n), and the difference that makes two of them differ, of like shape."""

_SYSTEMA = "Systema, Viñas Torné et al. 2025"
_PANEL = ", own targets removed; place 0 … n − 1 of the own truth in the panel, ties at their mean"
_PDS = "perturbation discrimination score; PerturBench, Wu et al. 2024; Virtual Cell Challenge 2025"
_VCC = "Virtual Cell Challenge 2025, Roohani et al., Cell 2025; cell-eval"


class Place(NamedTuple):
    """Where the own truth stands among those of the panel, by distance from the prediction; all (C,)."""

    nearer: np.ndarray
    """How many others are nearer."""
    tied: np.ndarray
    """How many others are as near."""
    tied_before: np.ndarray
    """How many of these stand before it in the table."""
    others: np.ndarray
    """How many others there are."""


@metric(
    **SHARE,
    needs=("controls", "panel"),
    formula="1 − place / (n − 1) by Σ|δ̂ − δ|" + _PANEL,
    source=_PDS,
)
def pds_l1(pair: Pair) -> Values:
    """Perturbation discrimination score by Σ|δ̂ − δ|: 1 − place / (n − 1), ties at their mean place.

    Place 0 is the nearest of the n true effects of the panel; random: 1/2. The genes that the condition itself targets
    are removed from both sides: knocking a gene down is not a prediction.
    """
    return _score(_place_l1(pair))


@metric(
    **SHARE,
    needs=("controls", "panel"),
    formula="1 − place / (n − 1) by √Σ(δ̂ − δ)²" + _PANEL,
    source=_PDS,
)
def pds_l2(pair: Pair) -> Values:
    """Perturbation discrimination score by Euclidean distance, see :func:`pds_l1`."""
    return _score(_place_of_effects(pair, _euclidean))


@metric(
    **SHARE,
    needs=("controls", "panel"),
    formula="1 − place / (n − 1) by 1 − cosine(δ̂, δ)" + _PANEL,
    source=_PDS,
)
def pds_cosine(pair: Pair) -> Values:
    """Perturbation discrimination score by 1 − cosine, see :func:`pds_l1`; 1 where an effect is zero."""
    return _score(_place_of_effects(pair, _cosine))


@metric(
    **SHARE,
    needs=("panel",),
    formula="share of the other conditions of the panel with x farther from x̂ than the own, Euclidean; ties half",
    source=_SYSTEMA,
)
def centroid_accuracy(pair: Pair) -> Values:
    """Share of the other conditions of the panel whose true x is farther from x̂ than the own one, Euclidean.

    Viñas Torné et al. (Systema), Nature Biotechnology 2025; ties, which count 0 there, count half.
    """
    nothing = sparse.csr_matrix(pair.x.shape)
    return _score(_place(pair.x, pair.x_hat, pair, nothing, _euclidean))


@metric(
    **SHARE,
    needs=("controls", "panel"),
    formula="1 − place / n by Σ|δ̂ − δ|, own targets removed; ties by the order of the table",
    source=_VCC,
    ranks=False,
)
def vcc2025_pds(pair: Pair) -> Values:
    """The form of the Virtual Cell Challenge 2025 (cell-eval): Σ|δ̂ − δ|, 1 − place / n, ties by the table's order.

    Its least value is 1/n, and equal distances depend on the names of conditions.
    """
    place = _place_l1(pair)
    value = 1 - (place.nearer + place.tied_before) / (place.others + 1)
    return values(value, {"panel of one": place.others == 0})


def _score(place: Place) -> Values:
    value = 1 - share(place.nearer + place.tied / 2, place.others)
    return values(value, {"panel of one": place.others == 0})


@once
def _place_l1(pair: Pair) -> Place:
    return _place_of_effects(pair, _manhattan)


def _place_of_effects(pair: Pair, distance_to: Callable[[np.ndarray], Distance]) -> Place:
    removed = _targets(pair)
    predicted = pair.delta_hat.copy()
    predicted[removed.nonzero()] = 0
    true, predicted = _clean(pair.delta, pair.noise), _clean(predicted, pair.noise_hat)
    return _place(true, predicted, pair, removed, distance_to)


def _clean(effect: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Rows that are nothing but rounding become zero: it has no direction."""
    return np.where(within(effect, noise)[:, None], 0, effect)


def _targets(pair: Pair) -> sparse.csr_matrix:
    """1 at the genes that each condition targets, else 0; (C, G)."""
    if pair.targets is None:
        return sparse.csr_matrix(pair.x.shape)
    targets = pair.targets
    rows = np.repeat(np.arange(len(targets)), [len(t) for t in targets])
    at = np.concatenate(targets).astype(np.int64)
    removed = sparse.csr_matrix((np.ones(len(at)), (rows, at)), shape=pair.x.shape)
    removed.data[:] = 1  # a gene named twice is removed once
    return removed


def _place(
    true: np.ndarray,
    predicted: np.ndarray,
    pair: Pair,
    removed: sparse.csr_matrix,
    distance_to: Callable[[np.ndarray], Distance],
) -> Place:
    assert pair.panel is not None
    place = Place(*np.zeros((4, len(true))))
    for name in np.unique(pair.panel):
        members = np.flatnonzero(pair.panel == name)
        place.others[members] = len(members) - 1
        distance = distance_to(true[members])
        for start in range(0, len(members), BLOCK):
            at = np.arange(start, min(start + BLOCK, len(members)))
            rows = members[at]
            d, same = distance(predicted[rows], removed[rows])
            farther = d - d[np.arange(len(at)), at][:, None]
            tied = np.abs(farther) <= same
            place.nearer[rows] = (farther < -same).sum(axis=1)
            place.tied[rows] = tied.sum(axis=1) - 1  # not with itself
            place.tied_before[rows] = (tied & (np.arange(len(members)) < at[:, None])).sum(axis=1)
    return place


def _manhattan(true: np.ndarray) -> Distance:
    """Σ|a − b| = Σa + Σb − 2 Σmin(a, b), the minima in float32."""
    total, length = true.sum(axis=1), np.abs(true).sum(axis=1)
    by_gene, single = np.abs(true).T.copy(), true.astype(np.float32)
    ones = np.ones(true.shape[1], dtype=np.float32)

    def distance(predicted: np.ndarray, removed: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        minima = np.empty((len(predicted), len(true)))
        for start in range(0, len(true), STRIP):
            strip = single[start : start + STRIP]
            least = np.empty_like(strip)
            for i, row in enumerate(predicted.astype(np.float32)):
                minima[i, start : start + STRIP] = np.minimum(strip, row, out=least) @ ones
        d = predicted.sum(axis=1)[:, None] + total - 2 * minima - removed @ by_gene
        same = 10 * SAME * (np.abs(predicted).sum(axis=1)[:, None] + length)  # sums of float32 err more
        return d, same

    return distance


def _euclidean(true: np.ndarray) -> Distance:
    squares = true**2
    total, by_gene = squares.sum(axis=1), squares.T.copy()

    def distance(predicted: np.ndarray, removed: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        own = (predicted**2).sum(axis=1)[:, None]
        d2 = own + total - removed @ by_gene - 2 * predicted @ true.T
        return np.sqrt(np.maximum(d2, 0)), SAME * (np.sqrt(own) + np.sqrt(total))

    return distance


def _cosine(true: np.ndarray) -> Distance:
    squares = true**2
    total, by_gene = squares.sum(axis=1), squares.T.copy()

    def distance(predicted: np.ndarray, removed: sparse.csr_matrix) -> tuple[np.ndarray, float]:
        left = total - removed @ by_gene
        left[left <= SAME**2 * total] = 0  # an effect on the targets alone
        norms = np.sqrt((predicted**2).sum(axis=1)[:, None] * left)
        cosine = np.divide(predicted @ true.T, norms, out=np.zeros_like(norms), where=norms > 0)
        return 1 - cosine, SAME

    return distance
