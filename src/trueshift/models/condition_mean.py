"""condition_mean: the training mean of the very same condition. The bar for splits that hold out cells only."""

from typing import Self

import anndata as ad

from trueshift.contract import CONDITION, asked, make_prediction
from trueshift.models.base import ArrayModel, Query, Training, centroids, refuse_unseen
from trueshift.tracking import Run


class ConditionMean(ArrayModel):
    """x̂ = mean of the training cells of the same context, perturbation and dose; it refuses any other condition."""

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """Learns the mean of each of C training conditions, shape (C, G)."""
        train = given.cells
        seen = centroids(train)
        self.state = {"conditions": seen.conditions.to_numpy(str), "means": seen.means}
        return self

    def predict(self, asked_for: Query) -> ad.AnnData:
        """One profile per asked condition."""
        query = asked_for.cells
        row_of = {tuple(condition): row for row, condition in enumerate(self.state["conditions"].tolist())}
        refuse_unseen(query, set(row_of), CONDITION, "condition_mean")
        rows = [row_of[c] for c in asked(query)[CONDITION].astype(str).itertuples(index=False, name=None)]
        return make_prediction(query, self.state["means"][rows])
