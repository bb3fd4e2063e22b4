"""What a metric is given, and what it gives back."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

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


@dataclass(frozen=True)
class Pair:
    """Truth and prediction of C conditions on the same G genes; conditions are rows, arrays are float64 (C, G).

    ``x`` and ``x_hat`` are true and predicted mean expression, ``delta`` = x − c_ref and ``delta_hat`` = x̂ − c_in the
    true and predicted effects. ``noise`` and ``noise_hat`` bound what rounding can do to them. ``order`` (C, G) holds
    gene positions, most differentially expressed first.
    """

    x: np.ndarray
    x_hat: np.ndarray
    delta: np.ndarray
    delta_hat: np.ndarray
    noise: np.ndarray
    noise_hat: np.ndarray
    order: np.ndarray

    @classmethod
    def of(
        cls,
        x: np.ndarray,
        x_hat: np.ndarray,
        control_reference: np.ndarray,
        control_input: np.ndarray,
        order: np.ndarray,
    ) -> "Pair":
        """Builds a pair from arrays of shape (C, G); a shape that differs is a ``ValueError``.

        Controls may be NaN where a condition has none: metrics that use them are undefined there.
        """
        given = [np.asarray(a, dtype=np.float64) for a in (x, x_hat, control_reference, control_input)]
        shapes = {a.shape for a in given} | {order.shape}
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
        )

    def top(self, k: int) -> "Pair":
        """The same conditions on the first ``k`` genes of each one's order, strongest first; needs 1 ≤ k ≤ G."""
        n_genes = self.order.shape[1]
        if not 1 <= k <= n_genes:
            raise ValueError(f"k = {k} of {n_genes} genes")
        best = self.order[:, :k]
        names = ("x", "x_hat", "delta", "delta_hat", "noise", "noise_hat")
        arrays = {name: np.take_along_axis(getattr(self, name), best, axis=1) for name in names}
        return Pair(**arrays, order=np.broadcast_to(np.arange(k), best.shape))
