"""mean_shift: every perturbation moves every context by the same mean effect. A floor of every table."""

from typing import Self

import anndata as ad

from trueshift.contract import make_prediction
from trueshift.models.base import ArrayModel, Query, Training, centroids, query_controls
from trueshift.tracking import Run


class MeanShift(ArrayModel):
    """x̂ = c_in + δ̄, with δ̄ the mean over training (context, perturbation, dose) of (treated mean − control mean)."""

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """Learns δ̄, shape (G,)."""
        train = given.cells
        self.state = {"shift": centroids(train).deltas.mean(axis=0)}
        return self

    def predict(self, asked_for: Query) -> ad.AnnData:
        """One profile per asked condition."""
        query = asked_for.cells
        return make_prediction(query, query_controls(query) + self.state["shift"])
