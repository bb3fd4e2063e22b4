"""ridge_control: how far a gene moves depends on where it stands in the context's controls."""

from typing import Self

import anndata as ad

from trueshift.contract import ContractError, make_prediction
from trueshift.models.base import ArrayModel, Query, Training, centroids, query_controls
from trueshift.tracking import Run


class RidgeControl(ArrayModel):
    """x̂_g = c_g + δ̄_g + β_g (c_g − c̄_g), a ridge regression of each gene's δ on its control mean.

    Means and sums run over training conditions of equal weight: β_g = Σ(c − c̄)(δ − δ̄) / (Σ(c − c̄)² + alpha). As a
    regression of treated on control its slope is 1 + β_g, so that a large ``alpha`` (in squared expression units),
    or a single training context, gives mean_shift.
    """

    def __init__(self, *, seed: int = 0, alpha: float = 1.0) -> None:
        super().__init__(seed=seed)
        self.alpha = alpha

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """Learns δ̄, c̄ and β, each of shape (G,)."""
        train = given.cells
        if not self.alpha > 0:
            raise ContractError(f"ridge_control: alpha {self.alpha} must be above 0")
        seen = centroids(train)
        control = seen.means - seen.deltas
        shift, centre = seen.deltas.mean(axis=0), control.mean(axis=0)
        away = control - centre
        slope = (away * (seen.deltas - shift)).sum(axis=0) / ((away**2).sum(axis=0) + self.alpha)
        self.state = {"shift": shift, "centre": centre, "slope": slope}
        return self

    def predict(self, asked_for: Query) -> ad.AnnData:
        """One profile per asked condition."""
        query = asked_for.cells
        control = query_controls(query)
        state = self.state
        return make_prediction(query, control + state["shift"] + state["slope"] * (control - state["centre"]))
