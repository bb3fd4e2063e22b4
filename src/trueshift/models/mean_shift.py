"""mean_shift: every perturbation moves every context by the same mean effect. A floor of every table."""

from typing import Self

import anndata as ad

from trueshift.contract import Pairs, make_prediction
from trueshift.models.base import ArrayModel, centroids, query_controls
from trueshift.tracking import Run


class MeanShift(ArrayModel):
    """x̂ = c_in + δ̄, with δ̄ the mean over training (context, perturbation, dose) of (treated mean − control mean)."""

    def fit(self, train: ad.AnnData, pairs: Pairs | None = None, run: Run | None = None) -> Self:
        """Learns δ̄, shape (G,)."""
        self.state = {"shift": centroids(train).deltas.mean(axis=0)}
        return self

    def predict(self, query: ad.AnnData) -> ad.AnnData:
        """One profile per asked condition."""
        return make_prediction(query, query_controls(query) + self.state["shift"])
