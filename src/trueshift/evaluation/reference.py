"""The truth side of a test: computed once per dataset × split × fold, then read by the score of every model.

Controls. The split halves the controls of each context. ``control_reference`` is subtracted from the truth and is
what truth cells are tested against; ``control_input`` goes to models and is subtracted from their predictions. No
control cell enters both sides. What is counted against the limits below is all controls of the context, input and
reference together.
"""

from typing import Any, SupportsIndex

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift.contract import CONDITION, ContractError, asked, column_means, condition_codes, dense, metadata
from trueshift.evaluation import cells as distances
from trueshift.evaluation.cells import Centred
from trueshift.evaluation.truth import FDR, Truth
from trueshift.evaluation.wilcoxon import SortedCells, adjust, wilcoxon

FEW_CONTROLS = 100  # below: flag few_controls
MIN_CONTROLS = 40  # below: flag too_few_controls, and every score that needs controls is undefined
_BATCH = 2**26
HALVES = ("control_input", "control_reference")


def truth_statistics(truth: ad.AnnData, train: ad.AnnData | None = None) -> Truth:
    """Everything that scoring needs to know of ``truth.h5ad``, and the mean effects of ``train.h5ad`` if given.

    ``truth`` has rows of role test, control_reference and control_input, ``uns["conditions"]`` (see
    :func:`trueshift.contract.asked`) and ``uns["trueshift"]["cluster"]``, the obs column that the split holds out.
    Raises :class:`ContractError` if conditions and test cells do not match or if a condition lies in two clusters.
    """
    table = asked(truth)
    test = TestCells(truth)
    n, n_genes = len(table), truth.n_vars
    control = {half: np.full((n, n_genes), np.nan) for half in HALVES}
    n_control = {half: np.zeros(n, dtype=np.int32) for half in HALVES}
    mean, z, p, p_adjusted, variance = (np.full((n, n_genes), np.nan) for _ in range(5))
    pairs = np.full((3, n), np.nan)  # bandwidth, mean distance and mean kernel within
    for name, members in table.groupby(table["context"].astype(str)).indices.items():
        rows = {half: test.controls(str(name), half) for half in HALVES}
        for half, cells in rows.items():
            n_control[half][members] = len(cells)
            if len(cells):
                control[half][members] = column_means(test.matrix, cells)
        testable = not _too_few(n_control)[members].any()
        reference = SortedCells.of(test.dense(rows["control_reference"])) if testable else None
        for batch in test.batches(np.asarray(members)):
            dense_cells = [test.cells(i) for i in batch]
            mean[batch] = [values.mean(axis=0, dtype=np.float64) for values in dense_cells]
            several = [(i, values) for i, values in zip(batch, dense_cells, strict=True) if len(values) > 1]
            for i, values in several:
                centred = Centred.of(values)
                variance[i], pairs[:, i] = centred.variance, distances.pairs_of(centred)
            if reference is not None and several:
                tested = [i for i, _ in several]
                z[tested], p[tested] = wilcoxon([values for _, values in several], reference)
                p_adjusted[tested] = adjust(p[tested])
    conditions = _conditions(truth, table, test, n_control, p_adjusted)
    conditions["bandwidth"], conditions["distance_within"], conditions["kernel_within"] = pairs
    centre, delta = training_means(train, table["context"].astype(str), n_genes)
    return Truth(
        conditions=conditions,
        genes=truth.var_names.to_numpy(dtype=object),
        mean=mean.astype(np.float32),
        variance=variance.astype(np.float32),
        control_input=control["control_input"].astype(np.float32),
        control_reference=control["control_reference"].astype(np.float32),
        train_centre=centre.astype(np.float32),
        train_delta=delta.astype(np.float32),
        z=z.astype(np.float32),
        p_value=p,
        p_adjusted=p_adjusted,
        order=de_order(p_adjusted, mean - control["control_reference"], truth.var_names.to_numpy(dtype=str)),
    )


class TestCells:
    """The rows of ``truth.h5ad`` by condition and role."""

    __test__ = False  # no test class, whatever its name

    def __init__(self, truth: ad.AnnData) -> None:
        self.role = truth.obs["role"].astype(str).to_numpy()
        self.context = truth.obs["context"].astype(str).to_numpy()
        self.rows = np.flatnonzero(self.role == "test")
        self.codes = condition_rows(truth.obs.iloc[self.rows], asked(truth), "truth")
        matrix = truth.X  # of a view: sliced anew by every look
        self.matrix = matrix.tocsr() if sparse.issparse(matrix) else np.asarray(matrix)
        order = np.argsort(self.codes, kind="stable")
        self._blocks = np.split(self.rows[order], np.cumsum(np.bincount(self.codes))[:-1])

    def of(self, condition: SupportsIndex) -> np.ndarray:
        """The rows of the test cells of a condition, in file order."""
        return self._blocks[condition.__index__()]

    def batches(self, conditions: np.ndarray) -> list[np.ndarray]:
        """``conditions`` in turn, in groups that are made dense together: 2²⁶ values, 256 MB, or little more."""
        values = np.array([len(self.of(i)) for i in conditions]) * self.matrix.shape[1]
        return np.split(conditions, np.flatnonzero(np.diff(np.cumsum(values) // _BATCH)) + 1)

    def controls(self, context: str, half: str) -> np.ndarray:
        """The rows of one half of the controls of a context."""
        return np.flatnonzero((self.role == half) & (self.context == context))

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """The expression of some rows, float32."""
        return dense(take_rows(self.matrix, rows))

    def cells(self, condition: SupportsIndex) -> np.ndarray:
        """The expression of the test cells of a condition, (n, G), float32."""
        return self.dense(self.of(condition))


def training_means(train: ad.AnnData | None, contexts: pd.Series, n_genes: int) -> tuple[np.ndarray, np.ndarray]:
    """μ_c and δ̄ for each of C conditions, given by their ``contexts``: two arrays (C, G).

    μ_c is the mean over the perturbed training conditions of the context of their centroids, NaN where there are
    none; δ̄ the mean over all perturbed training conditions of (centroid − mean training control of its context), in
    all rows the same. Every condition weighs the same.
    """
    none = np.full((len(contexts), n_genes), np.nan)
    if train is None:
        return none, none
    control = train.obs["is_control"].to_numpy(bool)
    context = train.obs["context"].astype(str).to_numpy()
    table, codes = condition_codes(train.obs[~control])
    centroids = pseudobulks(train.X[~control], codes, len(table))
    effects = []
    centre = none.copy()
    for name, members in table.groupby(table["context"].astype(str)).indices.items():
        given = np.flatnonzero(control & (context == name))
        if not len(given):
            raise ContractError(f"train: context {name} has perturbed cells but no control cells to compare them with")
        baseline = column_means(train.X, given)
        effects.append(centroids[members] - baseline)
        centre[(contexts == name).to_numpy()] = centroids[members].mean(axis=0)
    return centre, np.tile(np.concatenate(effects).mean(axis=0), (len(contexts), 1))


def de_order(p_adjusted: np.ndarray, difference: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """Genes of each condition, most differentially expressed first: positions, shape (C, G), int32.

    By adjusted p, then by |difference of the mean log1p expression of truth and reference controls| (``difference``,
    (C, G): means of logarithms, not logarithms of means), then by name. A condition without a test (NaN in
    ``p_adjusted``) is ordered by the difference alone.
    """
    names = np.broadcast_to(np.argsort(np.argsort(genes)), p_adjusted.shape)
    return np.lexsort((names, -np.abs(difference), np.nan_to_num(p_adjusted, nan=1.0)), axis=1).astype(np.int32)


def condition_rows(obs: pd.DataFrame, table: pd.DataFrame, file: str) -> np.ndarray:
    """For each row of ``obs`` its condition, as a row number of ``table``; matched by name, never by position.

    Raises :class:`ContractError` if a row belongs to no condition of the table or a condition has no row.
    """
    index = pd.MultiIndex.from_frame(table[CONDITION].astype(str))
    codes = index.get_indexer(pd.MultiIndex.from_frame(obs[CONDITION].astype(str)))
    if (codes < 0).any():
        name = " | ".join(obs[CONDITION].astype(str).iloc[np.flatnonzero(codes < 0)[0]])
        raise ContractError(f"{file}: the condition {name} was not asked for; make query and truth from one split")
    empty = np.setdiff1d(np.arange(len(table)), codes)
    if len(empty):
        raise ContractError(f"{file}: the condition {' | '.join(index[empty[0]])} was asked for but has no rows")
    return codes


def take_rows(matrix: Any, rows: np.ndarray) -> Any:
    """``matrix[rows]`` of a sparse or dense matrix; where the rows are consecutive, a view that copies nothing."""
    consecutive = len(rows) > 0 and bool((np.diff(rows) == 1).all())
    return matrix[rows[0] : rows[-1] + 1] if consecutive else matrix[rows]


def pseudobulks(matrix: Any, codes: np.ndarray, n: int) -> np.ndarray:
    """Means of the rows of each group: ``matrix`` (N, G), sparse or dense, ``codes`` (N,) < n; (n, G) in float64."""
    weight = 1.0 / np.bincount(codes, minlength=n)[codes]
    groups = sparse.csr_matrix((weight, (codes, np.arange(len(codes)))), shape=(n, len(codes)))
    sums = groups @ matrix
    return np.asarray(sums.toarray() if sparse.issparse(sums) else sums, dtype=np.float64)


def _too_few(n_control: dict[str, np.ndarray]) -> np.ndarray:
    n_input, n_reference = n_control["control_input"], n_control["control_reference"]
    return (n_input + n_reference < MIN_CONTROLS) | (n_input == 0) | (n_reference == 0)


def _conditions(
    truth: ad.AnnData,
    table: pd.DataFrame,
    test: TestCells,
    n_control: dict[str, np.ndarray],
    p_adjusted: np.ndarray,
) -> pd.DataFrame:
    n_cells = np.bincount(test.codes, minlength=len(table))
    n_controls = n_control["control_input"] + n_control["control_reference"]
    too_few = _too_few(n_control)
    few = ~too_few & (n_controls < FEW_CONTROLS)
    marks = {"few_controls": few, "too_few_controls": too_few, "one_profile": n_cells == 1}
    tested = ~np.isnan(p_adjusted).any(axis=1)
    n_deg = pd.array((p_adjusted < FDR).sum(axis=1), dtype="Int32")
    n_deg[~tested] = pd.NA
    conditions = table[[*CONDITION, "modality"]].astype(str)
    return conditions.assign(
        cluster=_clusters(truth, table, test),
        n_cells=n_cells.astype(np.int32),
        n_control_input=n_control["control_input"],
        n_control_reference=n_control["control_reference"],
        n_controls=n_controls,
        n_deg=n_deg,
        n_seen=table["n_seen"].to_numpy(np.int32),
        flags=[";".join(name for name, mask in marks.items() if mask[i]) for i in range(len(table))],
    )


def _clusters(truth: ad.AnnData, table: pd.DataFrame, test: TestCells) -> np.ndarray:
    """The one value of the held-out unit that the test cells of each condition share."""
    column = metadata(truth).get("cluster")
    if column not in truth.obs:
        raise ContractError(f"truth: uns['trueshift']['cluster'] is {column}, which is no column of obs; set cluster:")
    names = pd.Series(truth.obs[column].astype(str).to_numpy()[test.rows])
    values = names.groupby(test.codes).agg(["first", "nunique"])
    mixed = np.flatnonzero(values["nunique"] > 1)
    if len(mixed):
        name = " | ".join(table[CONDITION].astype(str).iloc[mixed[0]])
        raise ContractError(
            f"truth: test cells of the condition {name} have several values of {column}, so it is in no single "
            "cluster; in the split, set cluster: perturbation or context"
        )
    return values["first"].to_numpy()
