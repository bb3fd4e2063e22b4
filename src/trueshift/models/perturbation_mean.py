"""perturbation_mean: a perturbation does to every context what it did, on average, to the training contexts."""

from typing import Self

import anndata as ad
import numpy as np

from trueshift.contract import asked, make_prediction
from trueshift.models.base import ArrayModel, Query, Training, centroids, query_controls, refuse_unseen
from trueshift.models.effects import Effects
from trueshift.tracking import Run


class PerturbationMean(ArrayModel):
    """x̂ = c_in + mean over contexts of the perturbation's training δ, at the asked dose if trained, else over doses.

    A combination is a perturbation of its own here: one that was not trained is refused.
    """

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """Keeps the δ of every training condition, shape (C, G)."""
        train = given.cells
        seen = Effects.of(centroids(train))
        self.state = {"conditions": seen.conditions, "deltas": seen.deltas}
        return self

    def predict(self, asked_for: Query) -> ad.AnnData:
        """One profile per asked condition."""
        query = asked_for.cells
        seen = Effects(**self.state)
        known: set[tuple[str, ...]] = {(name,) for name in seen.conditions[:, 1].tolist()}
        refuse_unseen(query, known, ["perturbation"], "perturbation_mean")
        table = asked(query).astype({"perturbation": str, "dose": str})
        shifts = [seen.mean(p, d) for p, d in zip(table["perturbation"], table["dose"], strict=True)]
        return make_prediction(query, query_controls(query) + np.stack(shifts))
