"""additive: a combination does the sum of what its single perturbations do."""

from typing import Self

import anndata as ad
import numpy as np

from trueshift.contract import ContractError, asked, component_doses, components, make_prediction
from trueshift.models.base import ArrayModel, Query, Training, centroids, query_controls, refuse
from trueshift.models.effects import Effects
from trueshift.tracking import Run


class Additive(ArrayModel):
    """x̂ = c_in + δ_A + δ_B, over the components of the asked perturbation; trained combinations are not used.

    The δ of a single is that of the same dose if trained, else the mean over doses; and of these that of the same
    context if trained, else the mean over contexts. A single of a combination that was not trained counts 0 (column
    ``n_seen`` of the asked conditions says how many were); a single asked for alone that was not trained is refused.
    """

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """Keeps the δ of the S training conditions with one perturbation, shape (S, G)."""
        train = given.cells
        seen = Effects.of(centroids(train))
        single = np.array([len(components(name)) == 1 for name in seen.conditions[:, 1].tolist()])
        self.state = {"conditions": seen.conditions[single], "deltas": seen.deltas[single]}
        return self

    def predict(self, asked_for: Query) -> ad.AnnData:
        """One profile per asked condition."""
        query = asked_for.cells
        seen = Effects(**self.state)
        labels = asked(query)["perturbation"].astype(str)
        alone = np.array([len(components(name)) == 1 and name not in seen for name in labels])
        refuse(query, alone, ["perturbation"], "additive")
        values = query_controls(query)
        for row, condition in enumerate(asked(query)[["context", "perturbation", "dose"]].astype(str).to_numpy()):
            context, perturbation, dose = condition
            singles, doses = components(perturbation), component_doses(dose)
            if len(doses) != len(singles):
                raise ContractError(f"query: dose {dose} of perturbation {perturbation} is not one number a component")
            for name, one in zip(singles, doses, strict=True):
                if name in seen:
                    values[row] += seen.mean(name, one, context)
        return make_prediction(query, values)
