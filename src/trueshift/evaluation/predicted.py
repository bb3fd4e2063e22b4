"""The predicted side of a score: what is computed once of a prediction, then compared with any part of the truth."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd

from trueshift.contract import CONDITION, ContractError, dense, metadata, unanswered
from trueshift.evaluation import cells as distances
from trueshift.evaluation.cells import Centred
from trueshift.evaluation.pair import CellTerms, Tests
from trueshift.evaluation.reference import TestCells, condition_rows, pseudobulks, take_rows
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
    left_out: np.ndarray | None = None
    """Why a condition is left unanswered, empty text where it is not: (C,); its mean is 0."""

    def take(self, rows: np.ndarray) -> "Predicted":
        """The conditions at positions ``rows``."""
        return Predicted(
            mean=self.mean[rows],
            variance=None if self.variance is None else self.variance[rows],
            test=_rows(self.test, rows),
            copies=_rows(self.copies, rows),
            to_truth=self.to_truth,
            within=None if self.within is None else self.within[:, rows],
            left_out=None if self.left_out is None else self.left_out[rows],
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
    controls. A profile has no cells, with one exception: no_change says that its cells *are* the input controls. Where
    the data are profiles, predictions made from several controls are no sample either: their mean counts.
    ``needs`` are those of the metrics wanted: without "cells" and "copies" only the means are made. Conditions are
    matched by name; genes must be those of the truth, in its order, else a :class:`ContractError`.
    """
    if prediction.var_names.tolist() != truth.genes.tolist():
        raise ContractError("prediction: its genes are not those of the truth, in the same order; predict again")
    n = len(truth.conditions)
    codes = condition_rows(prediction.obs, truth.conditions, "prediction", unanswered(prediction))
    about = metadata(prediction)
    kind = OWN if about["output"] == "cells" else str(about.get("cells", COPIES))
    left_out = reasons_left_out(prediction, truth)
    without = not test.kind.has_cells or not {"cells", "copies"} & set(needs)
    if without or (kind == COPIES and "copies" not in needs):
        means = pseudobulks(prediction.X, codes, n)
        return Predicted(np.where(left_out[:, None] == "", means, 0), left_out=left_out)

    made = _Made(test, truth)
    blocks = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes, minlength=n))[:-1])
    n_cells = truth.conditions["n_cells"].to_numpy()
    for group in test.same_controls():
        members = group[left_out[group] == ""]
        if not len(members):
            continue
        controls = test.dense(test.controls(group[0], "control_input"))
        ordered = SortedCells.of(controls) if len(controls) else None
        for batch in [members] if kind == INPUT_CONTROLS else test.batches(members):
            cells = [dense(take_rows(prediction.X, blocks[i])) for i in batch]
            made.mean[batch] = [values.mean(axis=0, dtype=np.float64) for values in cells]
            if kind == INPUT_CONTROLS:  # the same cells for all conditions
                made.same_cells(batch, controls, ordered)
            elif kind == COPIES:
                copies = [np.repeat(values, n_cells[i], axis=0) for i, values in zip(batch, cells, strict=True)]
                made.tested(batch, copies, ordered)
            else:
                made.tested(batch, cells, ordered)
                made.compared(batch, cells)
    made.mean[left_out != ""] = 0
    tests = Tests(made.z, made.p_adjusted)
    if kind == COPIES:
        return Predicted(made.mean, copies=tests, left_out=left_out)
    return Predicted(made.mean, made.variance, tests, tests, made.to_truth, made.within, left_out)


def reasons_left_out(prediction: ad.AnnData, truth: Truth) -> np.ndarray:
    """Why the prediction leaves each condition of ``truth`` unanswered, empty text where it does not: (C,) objects."""
    table = unanswered(prediction)
    index = pd.MultiIndex.from_frame(truth.conditions[CONDITION].astype(str))
    reasons = np.full(len(index), "", dtype=object)
    reasons[index.get_indexer(pd.MultiIndex.from_frame(table[CONDITION]))] = table["reason"].to_numpy()
    return reasons


class _Made:
    """The arrays of a prediction, filled condition by condition; NaN where there is nothing."""

    def __init__(self, test: TestCells, truth: Truth) -> None:
        shape = truth.mean.shape
        self.mean, self.z, self.p_adjusted, self.variance = (np.full(shape, np.nan) for _ in range(4))
        self.within, self.to_truth = np.full((2, shape[0]), np.nan), np.full((2, len(test.role)), np.nan)
        self.test = test
        self.bandwidths = truth.conditions["bandwidth"].to_numpy(float)

    def tested(self, conditions: np.ndarray, cells: Sequence[np.ndarray], controls: SortedCells | None) -> None:
        """The cells of each condition against the input controls of their context."""
        if controls is not None:
            self.z[conditions], p = wilcoxon(cells, controls)
            self.p_adjusted[conditions] = adjust(p)

    def compared(self, conditions: np.ndarray, cells: Sequence[np.ndarray]) -> None:
        """The cells of each condition with one another and with the true ones."""
        for i, values in zip(conditions, cells, strict=True):
            centred = Centred.of(values)
            self.to_truth[:, self.test.of(i)] = distances.to_each(self.test.cells(i), centred, self.bandwidths[i])
            self.within[:, i] = distances.within(centred, self.bandwidths[i])[:, 0]
            self.variance[i] = centred.variance

    def same_cells(self, conditions: np.ndarray, cells: np.ndarray, controls: SortedCells | None) -> None:
        """Both, where all conditions are given the same cells: what does not depend on the truth is made once."""
        if not len(cells):
            return
        self.tested(conditions, [cells], controls)
        centred = Centred.of(cells)
        for i in conditions:
            self.to_truth[:, self.test.of(i)] = distances.to_each(self.test.cells(i), centred, self.bandwidths[i])
        self.within[:, conditions] = distances.within(centred, self.bandwidths[conditions])
        self.variance[conditions] = centred.variance


def _rows(tests: Tests | None, rows: np.ndarray) -> Tests | None:
    return None if tests is None else Tests(tests.z[rows], tests.p_adjusted[rows])
