"""The truth side of a test: computed once per dataset × split × fold, then read by the score of every model.

Controls. The split halves the controls of each context. ``control_reference`` is subtracted from the truth and is
what truth cells are tested against; ``control_input`` goes to models and is subtracted from their predictions. No
control cell enters both sides. What is counted against the limits of the kind of data (:class:`trueshift.kinds.Kind`)
is all controls of the context, input and reference together.

Paired profiles. Input controls of a condition are those that its profiles are paired with. Its reference are the
reference controls of its context; where training has no perturbed profile of that context, and so has made nothing of
its controls, the input controls of the other conditions serve too.
"""

from typing import Any, SupportsIndex

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift.contract import (
    CONDITION,
    ContractError,
    asked,
    column_means,
    condition_codes,
    dense,
    input_controls,
    kind_of,
    metadata,
)
from trueshift.evaluation import cells as distances
from trueshift.evaluation.cells import Centred
from trueshift.evaluation.truth import FDR, Truth
from trueshift.evaluation.wilcoxon import SortedCells, adjust, wilcoxon
from trueshift.kinds import Kind

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
    for i in range(n):
        for half in HALVES:
            rows = test.controls(i, half)
            n_control[half][i] = len(rows)
    suffice = ~_too_few(n_control, test.kind)
    for members in test.same_controls():
        for half in HALVES:
            if len(rows := test.controls(members[0], half)):
                control[half][members] = column_means(test.matrix, rows)
        testable = suffice[members].any() and test.testable(members[0])
        reference = SortedCells.of(test.dense(test.controls(members[0], HALVES[1]))) if testable else None
        for batch in test.batches(members):
            dense_cells = [test.cells(i) for i in batch]
            mean[batch] = [values.mean(axis=0, dtype=np.float64) for values in dense_cells]
            several = [(i, values) for i, values in zip(batch, dense_cells, strict=True) if len(values) > 1]
            for i, values in several:
                centred = Centred.of(values)
                variance[i], pairs[:, i] = centred.variance, distances.pairs_of(centred)
            several = [(i, values) for i, values in several if len(values) >= test.kind.min_treated_to_test]
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
        self.kind = kind_of(truth)
        table = asked(truth)
        self.paired = "control_id" in table
        self._controls = self._halves(truth, table)

    def of(self, condition: SupportsIndex) -> np.ndarray:
        """The rows of the test cells of a condition, in file order."""
        return self._blocks[condition.__index__()]

    def batches(self, conditions: np.ndarray) -> list[np.ndarray]:
        """``conditions`` in turn, in groups that are made dense together: 2²⁶ values, 256 MB, or little more."""
        values = np.array([len(self.of(i)) for i in conditions]) * self.matrix.shape[1]
        return np.split(conditions, np.flatnonzero(np.diff(np.cumsum(values) // _BATCH)) + 1)

    def _halves(self, truth: ad.AnnData, table: pd.DataFrame) -> dict[str, list[np.ndarray]]:
        """For each half the rows of every condition."""
        contexts = table["context"].astype(str)
        known = {
            half: {name: np.flatnonzero((self.role == half) & (self.context == name)) for name in contexts.unique()}
            for half in HALVES
        }
        halves = {half: [known[half][name] for name in contexts] for half in HALVES}
        if self.paired:
            given = np.flatnonzero(self.role == "control_input")
            inputs = ad.AnnData(obs=truth.obs.iloc[given], uns={"conditions": table})
            halves["control_input"] = [given[rows] for rows in input_controls(inputs)]
            for i in np.flatnonzero(~table["context_seen"].to_numpy(bool)):
                others = np.setdiff1d(known["control_input"][contexts[i]], halves["control_input"][i])
                halves["control_reference"][i] = np.union1d(halves["control_reference"][i], others)
        return halves

    def controls(self, condition: SupportsIndex, half: str) -> np.ndarray:
        """The rows of one half of the controls of a condition."""
        return self._controls[half][condition.__index__()]

    def same_controls(self) -> list[np.ndarray]:
        """The conditions in groups that have the same controls on both sides: those of a context, unless paired."""
        groups: dict[tuple[bytes, ...], list[int]] = {}
        for i, halves in enumerate(zip(*self._controls.values(), strict=True)):
            groups.setdefault(tuple(rows.tobytes() for rows in halves), []).append(i)
        return [np.array(members) for members in groups.values()]

    def testable(self, condition: SupportsIndex) -> bool:
        """Whether a rank test against the controls of a condition can say anything; none is made of pairs."""
        fewest = min(len(self.controls(condition, half)) for half in HALVES)
        return not self.paired and fewest >= self.kind.min_controls_to_test

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
    centroids = pseudobulks(train.X, codes, len(table), np.flatnonzero(~control))
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


def condition_rows(
    obs: pd.DataFrame, table: pd.DataFrame, file: str, left_out: pd.DataFrame | None = None
) -> np.ndarray:
    """For each row of ``obs`` its condition, as a row number of ``table``; matched by name, never by position.

    Raises :class:`ContractError` if a row belongs to no condition of the table, or if a condition has no row and is
    not one of those ``left_out``.
    """
    index = pd.MultiIndex.from_frame(table[CONDITION].astype(str))
    codes = index.get_indexer(pd.MultiIndex.from_frame(obs[CONDITION].astype(str)))
    if (codes < 0).any():
        name = " | ".join(obs[CONDITION].astype(str).iloc[np.flatnonzero(codes < 0)[0]])
        raise ContractError(f"{file}: the condition {name} was not asked for; make query and truth from one split")
    excused = np.array([], dtype=int)
    if left_out is not None and len(left_out):
        excused = index.get_indexer(pd.MultiIndex.from_frame(left_out[CONDITION].astype(str)))
    empty = np.setdiff1d(np.arange(len(table)), np.append(codes, excused))
    if len(empty):
        raise ContractError(f"{file}: the condition {' | '.join(index[empty[0]])} was asked for but has no rows")
    return codes


def take_rows(matrix: Any, rows: np.ndarray) -> Any:
    """``matrix[rows]``; where the rows are consecutive, and the matrix CSR or dense, a view that copies nothing."""
    if not len(rows) or not (np.diff(rows) == 1).all():
        return matrix[rows]
    first, last = int(rows[0]), int(rows[-1]) + 1
    if getattr(matrix, "format", "") != "csr":
        return matrix[first:last]
    start = matrix.indptr[first : last + 1]
    stored = slice(start[0], start[-1])
    shape = len(rows), matrix.shape[1]
    return sparse.csr_matrix((matrix.data[stored], matrix.indices[stored], start - start[0]), shape=shape)


def pseudobulks(matrix: Any, codes: np.ndarray, n: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Means of the rows of each group: ``matrix`` (N, G), sparse or dense, ``codes`` (N,) < n; (n, G) in float64.

    A group without rows has NaN. With ``rows``, shape (M,), only those rows count, and ``codes`` are theirs, (M,).
    """
    size = np.bincount(codes, minlength=n)
    step = len(codes) if sparse.issparse(matrix) else max(1, _BATCH // max(1, matrix.shape[1]))
    means = np.zeros((n, matrix.shape[1]))
    for start in range(0, len(codes), max(1, step)):
        some = codes[start : start + step]
        used, group = np.unique(some, return_inverse=True)
        part = matrix[start : start + step] if rows is None else matrix[rows[start : start + step]]
        groups = sparse.csr_matrix((1.0 / size[some], (group, np.arange(len(some)))), shape=(len(used), len(some)))
        sums = groups @ part
        means[used] += sums.toarray() if sparse.issparse(sums) else sums
    means[size == 0] = np.nan
    return means


def _too_few(n_control: dict[str, np.ndarray], kind: Kind) -> np.ndarray:
    n_input, n_reference = n_control["control_input"], n_control["control_reference"]
    return (n_input + n_reference < kind.min_controls) | (n_input == 0) | (n_reference == 0)


def _conditions(
    truth: ad.AnnData,
    table: pd.DataFrame,
    test: TestCells,
    n_control: dict[str, np.ndarray],
    p_adjusted: np.ndarray,
) -> pd.DataFrame:
    n_cells = np.bincount(test.codes, minlength=len(table))
    n_controls = n_control["control_input"] + n_control["control_reference"]
    too_few = _too_few(n_control, test.kind)
    few = ~too_few & (n_controls < test.kind.enough_controls)
    marks = {"few_controls": few, "too_few_controls": too_few, "one_profile": n_cells == 1}
    marks |= {"paired": np.full(len(table), test.paired)}
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
