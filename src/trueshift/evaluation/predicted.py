"""The predicted side of a score: what is computed once of a prediction, then compared with any part of the truth."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import anndata as ad
import numpy as np

from trueshift.contract import ContractError, dense, metadata
from trueshift.evaluation import cells as distances
from trueshift.evaluation.metrics.pair import CellTerms, Tests
from trueshift.evaluation.reference import TestCells, condition_rows, pseudobulks
from trueshift.evaluation.truth import Truth
from trueshift.evaluation.wilcoxon import SortedCells, adjust, wilcoxon

OWN, INPUT_CONTROLS, COPIES = "own", "control_input", "copies"


@dataclass(frozen=True)
class Predicted:
    """A prediction of C conditions on G genes. What cells are needed for is None for a prediction of profiles."""

    mean: np.ndarray
    """x̂: mean of the predicted cells, or the profile, float64, (C, G)."""
    variance: np.ndarray | None = None
    """Of the predicted cells, n − 1 in the denominator, (C, G); NaN for a single one."""
    test: Tests | None = None
    """Predicted cells against input controls."""
    copies: Tests | None = None
    """``test``; for profiles that of as many copies of the profile as there are test cells."""
    to_truth: np.ndarray | None = None
    """For every row of ``truth.h5ad``, mean distance to and mean kernel with the predicted cells: (2, N)."""
    within: np.ndarray | None = None
    """Mean distance and mean kernel between predicted cells of a condition: (2, C)."""

    def take(self, rows: np.ndarray) -> "Predicted":
        """The conditions at positions ``rows``."""
        return Predicted(
            mean=self.mean[rows],
            variance=None if self.variance is None else self.variance[rows],
            test=_rows(self.test, rows),
            copies=_rows(self.copies, rows),
            to_truth=self.to_truth,
            within=None if self.within is None else self.within[:, rows],
        )

    def terms(self, truth: Truth, members: Sequence[np.ndarray]) -> tuple[CellTerms | None, CellTerms | None]:
        """What E-distance and MMD are made of; ``members`` are the rows of ``truth.h5ad`` of each condition."""
        if self.to_truth is None or self.within is None:
            return None, None
        cross = np.stack([self.to_truth[:, rows].mean(axis=1) for rows in members], axis=1)
        known = truth.conditions[["distance_within", "kernel_within"]].to_numpy(float).T
        distance, kernel = (CellTerms(cross[i], known[i], self.within[i]) for i in range(2))
        return distance, kernel


def predicted_side(prediction: ad.AnnData, test: TestCells, truth: Truth, needs: Collection[str]) -> Predicted:
    """Prepares a prediction: profiles, cells, or profiles that stand for cells (``uns["trueshift"]["cells"]``).

    Predicted cells are tested against the input controls of their context, as truth cells are against the reference
    controls. A profile has no cells, with one exception: no_change says that its cells *are* the input controls.
    ``needs`` are those of the metrics wanted: without "cells" and "copies" only the means are made. Conditions are
    matched by name; genes must be those of the truth, in its order, else a :class:`ContractError`.
    """
    if prediction.var_names.tolist() != truth.genes.tolist():
        raise ContractError("prediction: its genes are not those of the truth, in the same order; predict again")
    n, n_genes = len(truth.conditions), len(truth.genes)
    codes = condition_rows(prediction.obs, truth.conditions, "prediction")
    about = metadata(prediction)
    kind = OWN if about["output"] == "cells" else str(about.get("cells", COPIES))
    if not {"cells", "copies"} & set(needs) or (kind == COPIES and "copies" not in needs):
        return Predicted(pseudobulks(prediction.X, codes, n))

    mean, z, p_adjusted, variance = (np.full((n, n_genes), np.nan) for _ in range(4))
    within, to_truth = np.full((2, n), np.nan), np.full((2, len(test.role)), np.nan)
    blocks = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes, minlength=n))[:-1])
    contexts = truth.conditions["context"].astype(str).to_numpy()
    n_cells, bandwidths = truth.conditions["n_cells"].to_numpy(), truth.conditions["bandwidth"].to_numpy(float)
    for context in np.unique(contexts):
        members = np.flatnonzero(contexts == context)
        controls = test.dense(test.controls(context, "control_input"))
        ordered = SortedCells.of(controls) if len(controls) else None
        if kind == INPUT_CONTROLS:  # the same cells for all conditions
            mean[members] = pseudobulks(prediction.X, codes, n)[members]
            for i in members if len(controls) else ():
                to_truth[:, test.of(i)] = distances.to_each(test.cells(i), controls, bandwidths[i])
            within[:, members] = distances.within_at(controls, bandwidths[members])
            if ordered is not None and len(controls) > 1:
                variance[members] = controls.var(axis=0, ddof=1, dtype=np.float64)
                z[members], p = wilcoxon([controls], ordered)
                p_adjusted[members] = adjust(p)
            continue
        for batch in test.batches(members):
            cells = [dense(prediction.X[blocks[i]]) for i in batch]
            mean[batch] = [values.mean(axis=0, dtype=np.float64) for values in cells]
            if kind == COPIES:
                cells = [np.repeat(values, n_cells[i], axis=0) for i, values in zip(batch, cells, strict=True)]
            if ordered is not None:
                z[batch], p = wilcoxon(cells, ordered)
                p_adjusted[batch] = adjust(p)
            for i, values in zip(batch, cells, strict=True) if kind == OWN else ():
                to_truth[:, test.of(i)] = distances.to_each(test.cells(i), values, bandwidths[i])
                within[:, i] = distances.within(values, bandwidths[i])[:, 0]
                if len(values) > 1:
                    variance[i] = values.var(axis=0, ddof=1, dtype=np.float64)
    tests = Tests(z, p_adjusted)
    if kind == COPIES:
        return Predicted(mean, copies=tests)
    return Predicted(mean, variance, tests, tests, to_truth, within)


def _rows(tests: Tests | None, rows: np.ndarray) -> Tests | None:
    return None if tests is None else Tests(tests.z[rows], tests.p_adjusted[rows])
