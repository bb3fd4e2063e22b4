"""Looking up the effect of a perturbation among the training conditions."""

import numpy as np

from trueshift.models.base import Centroids


class Effects:
    """The training effects δ of perturbations, looked up by label, dose and context.

    ``conditions`` is a text array of shape (C, 3) (context, perturbation, dose), ``deltas`` has shape (C, G).
    """

    def __init__(self, conditions: np.ndarray, deltas: np.ndarray) -> None:
        self.conditions, self.deltas = conditions, deltas
        self._rows: dict[str, list[int]] = {}
        for row, perturbation in enumerate(conditions[:, 1].tolist()):
            self._rows.setdefault(perturbation, []).append(row)

    @classmethod
    def of(cls, seen: Centroids) -> "Effects":
        """Those of training centroids."""
        return cls(seen.conditions.to_numpy(str), seen.deltas)

    def __contains__(self, perturbation: str) -> bool:
        return perturbation in self._rows

    def mean(self, perturbation: str, dose: str, context: str | None = None) -> np.ndarray:
        """Mean δ of a trained perturbation, shape (G,).

        Of its training conditions those of the same dose count, if there are any; of these, where a ``context`` is
        given, those of the same context, if there are any.
        """
        rows = np.array(self._rows[perturbation])
        for column, wanted in ((2, dose), (0, context)):
            same = self.conditions[rows, column] == wanted
            rows = rows[same] if same.any() else rows
        return self.deltas[rows].mean(axis=0)
