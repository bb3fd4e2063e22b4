"""no_change: a perturbation does nothing. A floor of every table."""

from typing import Self

import anndata as ad

from trueshift.contract import Pairs, make_prediction
from trueshift.models.base import ArrayModel, query_controls
from trueshift.tracking import Run


class NoChange(ArrayModel):
    """x̂ = c_in, the mean of the context's input controls."""

    def fit(self, train: ad.AnnData, pairs: Pairs | None = None, run: Run | None = None) -> Self:
        """There is nothing to learn."""
        self.state = {}
        return self

    def predict(self, query: ad.AnnData) -> ad.AnnData:
        """One profile per asked condition, with the mark that its cells are the input controls themselves."""
        self.check_fitted()
        prediction = make_prediction(query, query_controls(query))
        prediction.uns["trueshift"]["cells"] = "control_input"
        return prediction
