"""ridge_features: a linear map from what is known of a perturbation to its effect."""

from collections.abc import Sequence
from typing import Self

import anndata as ad
import numpy as np
from scipy import sparse

from trueshift.contract import ContractError, asked, make_prediction
from trueshift.models.base import (
    SAME_FEATURES,
    ArrayModel,
    CannotLearnError,
    Query,
    Training,
    centroids,
    query_controls,
)
from trueshift.models.features import Features
from trueshift.tracking import Run

ALPHAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


def ridge_path(X: np.ndarray, Y: np.ndarray, groups: np.ndarray, penalties: np.ndarray) -> tuple[np.ndarray, int]:
    """Ridge with a free intercept, its penalty chosen by leaving out one group of rows at a time.

    X (C, F), Y (C, G), ``groups`` (C,) codes; rows of a group share their features, so that the left-out residuals
    have a closed form: e = r + h/(1 − m·h)·Σr, with h the leverage and m the size of the group. Returns the
    coefficients (F, G) of the centred problem and the position of the penalty chosen, of equal ones the largest.
    """
    left, spread, right = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    kept = spread > 1e-10 * spread[0]
    left, spread, right = left[:, kept], spread[kept], right[kept]
    centred = Y - Y.mean(axis=0)
    projected = left.T @ centred
    member = sparse.csr_matrix((np.ones(len(X)), (np.arange(len(X)), groups)))
    size = np.bincount(groups)[groups]
    losses = []
    for penalty in penalties:
        shrink = spread**2 / (spread**2 + penalty)
        residual = centred - (left * shrink) @ projected
        leverage = 1 / len(X) + (left**2 * shrink).sum(axis=1)
        total = (member.T @ residual)[groups]
        left_out = residual + (leverage / (1 - size * leverage))[:, None] * total
        losses.append((left_out**2).mean())
    near = np.flatnonzero(np.array(losses) <= min(losses) * (1 + 1e-9))
    chosen = int(near[np.argmax(penalties[near])])
    return right.T @ ((spread / (spread**2 + penalties[chosen]))[:, None] * projected), chosen


class RidgeFeatures(ArrayModel):
    """x̂ = c_in + δ̄ + (f − f̄)·B, a ridge regression of the training δ on perturbation features f.

    A combination has the sum of its components' features. Trained combinations are rows like any other condition: each
    counts once. The penalty is the one of ``alphas``, in units of the mean squared norm of centred features, with the
    least squared error on training perturbations left out one at a time (a combination is one of its own).

    ``features`` names a table, ``target_expression`` (with ``rank`` dimensions) or, None, the only table there is.
    """

    def __init__(
        self, *, seed: int = 0, features: str | None = None, alphas: Sequence[float] = ALPHAS, rank: int = 10
    ) -> None:
        super().__init__(seed=seed)
        self.features = features
        self.alphas = alphas
        self.rank = rank

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """Learns δ̄ (G,), f̄ (F,) and B (F, G); ``alpha`` of the state is the one chosen."""
        train = given.cells
        if not len(self.alphas) or min(self.alphas) <= 0:
            raise ContractError(f"ridge_features: alphas {list(self.alphas)} must be numbers above 0")
        seen = centroids(train)
        known = Features.read(train, self.features, self.rank, seen)
        X = known.of(seen.conditions["perturbation"])
        names, groups = np.unique(seen.conditions["perturbation"].to_numpy(str), return_inverse=True)
        scale = ((X - X.mean(axis=0)) ** 2).sum(axis=1).mean()
        if len(names) < 2 or scale <= 1e-20 * (X**2).sum(axis=1).mean():
            raise CannotLearnError(
                f"ridge_features needs training perturbations with different features {known.source}, "
                f"but {', '.join(names[:3])} do not differ; exclude the model from this split",
                SAME_FEATURES,
            )
        coefficients, chosen = ridge_path(X, seen.deltas, groups, np.array(self.alphas) * scale)
        self.state = {
            "shift": seen.deltas.mean(axis=0),
            "centre": X.mean(axis=0),
            "coefficients": coefficients,
            "alpha": np.array(self.alphas[chosen]),
            **known.arrays(),
        }
        return self

    def predict(self, asked_for: Query) -> ad.AnnData:
        """One profile per asked condition."""
        query = asked_for.cells
        state = self.state
        X = Features.of_arrays(state).of(asked(query)["perturbation"].astype(str))
        delta = state["shift"] + (X - state["centre"]) @ state["coefficients"]
        return make_prediction(query, query_controls(query) + delta)
