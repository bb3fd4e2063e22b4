"""train_mean: every perturbed profile looks like the mean perturbed profile of training."""

from typing import Literal, Self

import anndata as ad
import numpy as np

from trueshift.contract import asked, make_prediction
from trueshift.models.base import ArrayModel, Query, Training, centroids, refuse_unseen
from trueshift.tracking import Run


class TrainMean(ArrayModel):
    """x̂ = mean training perturbed centroid, over all contexts (``scope="global"``) or of the asked one (``"context"``).

    Centroids are condition means of equal weight. The context form refuses contexts without perturbed training cells.
    """

    def __init__(self, *, seed: int = 0, scope: Literal["global", "context"] = "global") -> None:
        super().__init__(seed=seed)
        self.scope = scope

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """Learns one mean, shape (1, G), or one of each of N contexts, shape (N, G)."""
        train = given.cells
        self.check_choices()
        seen = centroids(train)
        if self.scope == "global":
            self.state = {"means": seen.means.mean(axis=0, keepdims=True)}
            return self
        context = seen.conditions["context"].to_numpy(str)
        names = np.unique(context)
        self.state = {
            "contexts": names,
            "means": np.stack([seen.means[context == name].mean(axis=0) for name in names]),
        }
        return self

    def predict(self, asked_for: Query) -> ad.AnnData:
        """One profile per asked condition."""
        query = asked_for.cells
        if self.scope == "global":
            return make_prediction(query, np.repeat(self.state["means"], len(asked(query)), axis=0))
        names = self.state["contexts"].tolist()
        refuse_unseen(query, {(name,) for name in names}, ["context"], "train_mean of the context")
        rows = [names.index(name) for name in asked(query)["context"].astype(str)]
        return make_prediction(query, self.state["means"][rows])
