"""What a metric is given, and what it gives back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

T = TypeVar("T")
ROUNDING = 1e-5
"""A spread below this share of the expression is the rounding of float32 means, not a difference."""


class Values(NamedTuple):
    """One metric on C conditions; all arrays have shape (C,)."""

    value: np.ndarray
    """float64, NaN where undefined."""
    reason: np.ndarray
    """Why it is undefined, else empty text."""
    constant: np.ndarray
    """Where a correlation is 0 because the prediction is constant."""


def values(value: np.ndarray, undefined: dict[str, np.ndarray], constant: np.ndarray | None = None) -> Values:
    """Sets undefined values to NaN; ``undefined`` maps a reason to a mask, the first that applies is kept."""
    reason = np.full(len(value), "", dtype=object)
    for text, mask in undefined.items():
        reason[mask & (reason == "")] = text
    defined = reason == ""
    none = np.zeros(len(value), dtype=bool) if constant is None else constant & defined
    return Values(np.where(defined, value, np.nan), reason, none)


class Tests(NamedTuple):
    """Tests of cells against controls, both (C, G) and NaN where no test is possible."""

    z: np.ndarray
    """Rank-sum statistic, positive where higher than in controls."""
    p_adjusted: np.ndarray
    """Benjamini-Hochberg over the genes of the condition."""


class CellTerms(NamedTuple):
    """Means over pairs of cells of a distance or a kernel, each (C,); NaN where there is no pair."""

    cross: np.ndarray
    """Over pairs of a true and a predicted cell."""
    within: np.ndarray
    """Over pairs of different true cells."""
    within_hat: np.ndarray
    """Over pairs of different predicted cells."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Truth and prediction of C conditions on the same G genes; conditions are rows, arrays are (C, G) unless said.

    Always known: ``x`` and ``x_hat``, true and predicted mean expression, float64; ``delta`` = x − c_ref and
    ``delta_hat`` = x̂ − c_in, the true and predicted effects; ``noise`` and ``noise_hat``, bounds of what rounding can
    do to them; ``order``, gene positions, most differentially expressed first.

    None if not known: metrics that need it are then undefined, and are not called.
    """

    x: np.ndarray
    x_hat: np.ndarray
    delta: np.ndarray
    delta_hat: np.ndarray
    noise: np.ndarray
    noise_hat: np.ndarray
    order: np.ndarray
    panel: np.ndarray | None = None
    """(C,) integers: conditions with one number were tested together, in one context, and are told apart."""
    targets: Sequence[np.ndarray] | None = None
    """C arrays: positions of the genes that the perturbation itself targets; empty where none is measured."""
    centre: np.ndarray | None = None
    """μ_c: mean training perturbed centroid of the condition's context; a row of NaN where there is none."""
    mean_delta: np.ndarray | None = None
    """δ̄: mean training effect, the same in all rows; NaN where nothing perturbed was trained on."""
    z: np.ndarray | None = None
    """Rank-sum statistic of truth cells against reference controls; NaN where no test is possible."""
    significant: np.ndarray | None = None
    """Differentially expressed in truth (adjusted p < .05), bool."""
    variance: np.ndarray | None = None
    """Of the true cells, per gene, n − 1 in the denominator; NaN for a single cell."""
    variance_hat: np.ndarray | None = None
    """Of the predicted cells."""
    test_hat: Tests | None = None
    """Predicted cells tested against input controls, as truth cells are against reference controls."""
    test_copies: Tests | None = None
    """``test_hat``; for a prediction of profiles, that of copies of the profile in place of cells."""
    distance: CellTerms | None = None
    """Euclidean distances of cells."""
    kernel: CellTerms | None = None
    """Gaussian kernels of cells, bandwidth: median distance within truth."""
    samples: Callable[[int], np.ndarray] | None = None
    """The true cells or profiles of condition i, (n_i, G)."""
    shared_control: np.ndarray | None = None
    """Mean of all controls of the context, both halves (of pairs: the own controls): only for metrics that reproduce a
    published defect."""
    left_out: np.ndarray | None = None
    """(C,) text: why the prediction leaves a condition unanswered, empty where it does not. Its x_hat is then 0."""

    @classmethod
    def of(
        cls,
        x: np.ndarray,
        x_hat: np.ndarray,
        control_reference: np.ndarray,
        control_input: np.ndarray,
        order: np.ndarray,
        **known: Any,
    ) -> "Pair":
        """Builds a pair from arrays of shape (C, G), and what else is ``known``; other shapes are a ``ValueError``.

        Controls may be NaN where a condition has none: metrics that use them are undefined there.
        """
        given = [np.asarray(a, dtype=np.float64) for a in (x, x_hat, control_reference, control_input)]
        shapes = {a.shape for a in given} | {order.shape}
        shapes |= {known[name].shape for name in _PER_GENE if known.get(name) is not None}
        if len(shapes) > 1 or len(order.shape) != 2:
            raise ValueError(f"truth, prediction, controls and order differ in shape: {sorted(shapes)}")
        x, x_hat, c_ref, c_in = given
        return cls(
            x=x,
            x_hat=x_hat,
            delta=x - c_ref,
            delta_hat=x_hat - c_in,
            noise=ROUNDING * np.maximum(np.abs(x), np.abs(c_ref)),
            noise_hat=ROUNDING * np.maximum(np.abs(x_hat), np.abs(c_in)),
            order=order,
            **known,
        )

    def top(self, k: int) -> "Pair":
        """The same conditions on the first ``k`` genes of each one's order, strongest first; needs 1 ≤ k ≤ G.

        Only means, effects, their noise and variances are carried over. Several metrics ask for the same few genes, so
        those are kept as long as the pair is there; of more than a quarter of the genes nothing is kept.
        """
        n_genes = self.order.shape[1]
        if not 1 <= k <= n_genes:
            raise ValueError(f"k = {k} of {n_genes} genes")
        if 4 * k > n_genes:
            return self._cut(k)
        known = _KEPT.setdefault(self, {})
        return known[k] if k in known else known.setdefault(k, self._cut(k))

    def _cut(self, k: int) -> "Pair":
        n, n_genes = self.order.shape
        best = self.order[:, :k] + np.arange(n)[:, None] * n_genes
        arrays = {name: getattr(self, name) for name in _TOP}
        kept: dict[str, Any] = {name: a.take(best) for name, a in arrays.items() if a is not None}
        return Pair(**kept, order=np.broadcast_to(np.arange(k), best.shape))


_KEPT: WeakKeyDictionary[Pair, dict[int, Pair]] = WeakKeyDictionary()


def once(function: Callable[[Pair], T]) -> Callable[[Pair], T]:
    """Keeps what ``function`` makes of a pair as long as the pair is there: several metrics need it."""
    made: WeakKeyDictionary[Pair, T] = WeakKeyDictionary()

    @wraps(function)
    def kept(pair: Pair) -> T:
        if pair not in made:
            made[pair] = function(pair)
        return made[pair]

    return kept


_TOP = ("x", "x_hat", "delta", "delta_hat", "noise", "noise_hat", "variance", "variance_hat")
_PER_GENE = ("centre", "mean_delta", "z", "significant", "variance", "variance_hat", "shared_control")
