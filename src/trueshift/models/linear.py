"""linear: genes and perturbations are embedded, and one small matrix joins them (Ahlmann-Eltze et al. 2025)."""

from typing import Self

import anndata as ad
import numpy as np

from trueshift.contract import asked, make_prediction
from trueshift.models.base import ArrayModel, Query, Training, centroids, query_controls
from trueshift.models.features import TARGET_EXPRESSION, Features, gene_embedding
from trueshift.tracking import Run


def solve_bilinear(Y: np.ndarray, G: np.ndarray, P: np.ndarray, ridge: float) -> np.ndarray:
    """W of Y ≈ G·W·Pᵀ: (GᵀG + λI)⁻¹ GᵀYP (PᵀP + λI)⁻¹. Shapes: Y (G, C), G (G, K), P (C, F), W (K, F)."""
    left = np.linalg.solve(G.T @ G + ridge * np.eye(G.shape[1]), G.T @ Y @ P)
    return np.linalg.solve(P.T @ P + ridge * np.eye(P.shape[1]), left.T).T


class Linear(ArrayModel):
    """x̂ = c_in + b + G·W·p, with b the mean training δ.

    G, shape (genes, K), is the gene embedding of the training pseudobulks; p, shape (F,), is the perturbation's:
    the row of G of its target gene (``features="target_expression"``) or its row in a named table; a combination has
    the sum of its components. W minimises ‖δ − b − G·W·Pᵀ‖² with the penalty ``ridge`` on both sides.

    Source: Ahlmann-Eltze, Huber & Anders, Nature Methods 2025 (``pca_dim`` 10, ``ridge_penalty`` 0.1 there), with
    two adaptations to several contexts: δ is taken within a context, and b leaves out the controls' zero δ.
    """

    def __init__(
        self, *, seed: int = 0, rank: int = 10, ridge: float = 0.1, features: str | None = TARGET_EXPRESSION
    ) -> None:
        super().__init__(seed=seed)
        self.rank = rank
        self.ridge = ridge
        self.features = features

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """Learns b, G and W from the δ of the training conditions, equal weights."""
        train = given.cells
        seen = centroids(train)
        known = Features.read(train, self.features, self.rank, seen)
        P = known.of(seen.conditions["perturbation"])
        G = gene_embedding(seen, self.rank)
        b = seen.deltas.mean(axis=0)
        W = solve_bilinear((seen.deltas - b).T, G, P, self.ridge)
        self.state = {
            "b": b,
            "G": G,
            "W": W,
            **known.arrays(),
        }
        return self

    def predict(self, asked_for: Query) -> ad.AnnData:
        """One profile per asked condition."""
        query = asked_for.cells
        state = self.state
        known = Features.of_arrays(state)
        P = known.of(asked(query)["perturbation"].astype(str))
        return make_prediction(query, query_controls(query) + state["b"] + P @ state["W"].T @ state["G"].T)
