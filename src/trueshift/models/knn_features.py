"""knn_features: a perturbation does what the training perturbations most like it do."""

from typing import Literal, Self

import anndata as ad
import numpy as np

from trueshift.contract import ContractError, asked, make_prediction
from trueshift.models.base import ArrayModel, CannotLearnError, Query, Training, UnseenError, centroids, query_controls
from trueshift.models.features import Features
from trueshift.tracking import Run

ZERO_FEATURES = "features are all zero"


def distances(A: np.ndarray, B: np.ndarray, metric: str) -> np.ndarray:
    """1 − cosine, or 1 − Tanimoto a·b / (a·a + b·b − a·b), between rows: (P, F) and (Q, F) give (P, Q), in float64."""
    product = A @ B.T
    a, b = (A**2).sum(axis=1)[:, None], (B**2).sum(axis=1)[None, :]
    similarity = product / np.sqrt(a * b) if metric == "cosine" else product / (a + b - product)
    distance = 1 - similarity
    return np.where(distance < 1e-12, 0.0, distance)  # the same features, up to rounding


class KnnFeatures(ArrayModel):
    """x̂ = c_in + Σ w·δ over the ``k`` training perturbations nearest in features, Σ w = 1.

    The δ of a training perturbation is the mean over its conditions. A combination has the sum of its components'
    features, and is a neighbour like any other. ``metric`` is cosine or tanimoto (fingerprints). ``weights`` are
    uniform or distance, 1/d as in scikit-learn: perturbations of the same features then decide alone. Of neighbours
    equally near, the first by name is taken. Where training has fewer than ``k`` perturbations, all are neighbours.
    A perturbation whose features are all zero is like nothing: it is no neighbour, and has no answer.

    ``features`` names a table, ``target_expression`` (with ``rank`` dimensions) or, None, the only table there is.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        features: str | None = None,
        k: int = 5,
        metric: Literal["cosine", "tanimoto"] = "cosine",
        weights: Literal["distance", "uniform"] = "distance",
        rank: int = 10,
    ) -> None:
        super().__init__(seed=seed)
        self.features = features
        self.k = k
        self.metric = metric
        self.weights = weights
        self.rank = rank

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """Keeps features (N, F) and mean δ (N, G) of the N training perturbations."""
        train = given.cells
        self.check_choices()
        if self.k < 1:
            raise ContractError(f"knn_features: k {self.k} must be 1 or more")
        seen = centroids(train)
        perturbation = seen.conditions["perturbation"].to_numpy(str)
        trained = np.unique(perturbation)
        known = Features.read(train, self.features, self.rank, seen)
        values = known.of(trained)
        usable = values.any(axis=1)
        if not usable.any():
            raise CannotLearnError(
                f"knn_features: the features {known.source} of all perturbations in training are zero", ZERO_FEATURES
            )
        if not usable.all():
            print(f"no neighbours, features {known.source} all zero: {', '.join(trained[~usable])}")
        trained = trained[usable]
        if self.k > len(trained):
            print(f"k is {self.k}, but training has {len(trained)} perturbations: all are neighbours")
        self.state = {
            "features": values[usable],
            "deltas": np.stack([seen.deltas[perturbation == name].mean(axis=0) for name in trained]),
            **known.arrays(),
        }
        return self

    def predict(self, asked_for: Query) -> ad.AnnData:
        """One profile per asked condition."""
        query = asked_for.cells
        state = self.state
        wanted = asked(query)["perturbation"].astype(str).to_numpy(str)
        known = Features.of_arrays(state)
        values = known.of(wanted)
        zero = (values == 0).all(axis=1)
        if zero.any():
            raise UnseenError(
                f"perturbation {wanted[zero][0]}: its features {known.source} are all zero, so it is like nothing",
                zero,
                ZERO_FEATURES,
            )
        distance = distances(values, state["features"], self.metric)
        nearest = np.argsort(distance, axis=1, kind="stable")[:, : self.k]
        near = np.take_along_axis(distance, nearest, axis=1)
        if self.weights == "uniform":
            weight = np.ones_like(near)
        else:
            same = near == 0
            weight = np.where(same.any(axis=1, keepdims=True), same, 1 / np.where(same, 1, near))
        weight = weight / weight.sum(axis=1, keepdims=True)
        delta = np.einsum("pk,pkg->pg", weight, state["deltas"][nearest])
        return make_prediction(query, query_controls(query) + delta)
