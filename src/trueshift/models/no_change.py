"""no_change: a perturbation does nothing. A floor of every table."""

from typing import Self

import anndata as ad

from trueshift.contract import make_prediction
from trueshift.models.base import ArrayModel, Query, Training, query_controls
from trueshift.tracking import Run


class NoChange(ArrayModel):
    """x̂ = c_in, the mean of the context's input controls."""

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """There is nothing to learn."""
        self.state = {}
        return self

    def predict(self, asked_for: Query) -> ad.AnnData:
        """One profile per asked condition, with the mark that its cells are the input controls themselves."""
        query = asked_for.cells
        self.check_fitted()
        prediction = make_prediction(query, query_controls(query))
        prediction.uns["trueshift"]["cells"] = "control_input"
        return prediction
