"""The truth side of a test: computed once per dataset × split × fold, then read by the score of every model.

Controls. The split halves the controls of each context. ``control_reference`` is subtracted from the truth and is
what truth cells are tested against; ``control_input`` goes to models and is subtracted from their predictions. No
control cell enters both sides. What is counted against the limits below is all controls of the context, input and
reference together.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift.contract import CONDITION, ContractError, asked, dense, metadata, read_table, write_table
from trueshift.evaluation.wilcoxon import SortedCells, adjust, wilcoxon

FEW_CONTROLS = 100  # below: flag few_controls
MIN_CONTROLS = 40  # below: flag too_few_controls, and every score that needs controls is undefined
FDR = 0.05
CONDITION_COLUMNS = [*CONDITION, "modality", "cluster", "n_cells", "n_control_input", "n_control_reference"]
CONDITION_COLUMNS += ["n_controls", "n_deg", "n_seen", "flags"]
_TEXT = [*CONDITION, "modality", "cluster", "flags"]


@dataclass(frozen=True)
class Truth:
    """What is true of C tested conditions and G genes; the arrays have shape (C, G).

    ``conditions`` has one row per condition (:data:`CONDITION_COLUMNS`), in the order asked:
    ``cluster`` is its value of the unit that the split holds out; ``n_cells`` its test cells; ``n_control_input``,
    ``n_control_reference`` and their sum ``n_controls`` the controls of its context; ``n_deg`` the genes with adjusted
    p < .05, missing where no test is possible; ``n_seen`` how many components of the perturbation the model has seen;
    ``flags`` names joined by ``;``: few_controls (40-99 controls), too_few_controls (< 40, or one half empty),
    one_profile (a single cell or profile: no test, genes in the order of |x − c_ref|).
    """

    conditions: pd.DataFrame
    genes: np.ndarray
    """Names, shape (G,)."""
    mean: np.ndarray
    """x: mean of the test cells, on the scale of X (mean log1p for single cells), float32."""
    control_input: np.ndarray
    """c_in: mean of the input controls of the context, float32; NaN if there are none."""
    control_reference: np.ndarray
    """c_ref: mean of the reference controls of the context, float32; NaN if there are none."""
    z: np.ndarray
    """Rank-sum statistic against the reference controls, positive where higher than in controls, float32."""
    p_value: np.ndarray
    """Its two-sided p, float64; NaN where no test is possible."""
    p_adjusted: np.ndarray
    """Benjamini-Hochberg over the genes of the condition, float64."""
    order: np.ndarray
    """Gene positions, most differentially expressed first, int32. See :func:`de_order`."""

    @property
    def controls_suffice(self) -> np.ndarray:
        """Whether scores that need controls are defined, shape (C,)."""
        return ~self.conditions["flags"].str.split(";").map(lambda flags: "too_few_controls" in flags).to_numpy(bool)


_ARRAYS = [field.name for field in fields(Truth)][2:]
_STORED = [name for name in _ARRAYS if name != "order"]  # order is stored as the rank of each gene


def truth_statistics(truth: ad.AnnData) -> Truth:
    """Everything that scoring needs to know of ``truth.h5ad``.

    ``truth`` has rows of role test, control_reference and control_input, ``uns["conditions"]`` (see
    :func:`trueshift.contract.asked`) and ``uns["trueshift"]["cluster"]``, the obs column that the split holds out.
    Raises :class:`ContractError` if conditions and test cells do not match or if a condition lies in two clusters.
    """
    table = asked(truth)
    role = truth.obs["role"].astype(str).to_numpy()
    test = np.flatnonzero(role == "test")
    codes = condition_rows(truth.obs.iloc[test], table, "truth")
    context = truth.obs["context"].astype(str).to_numpy()
    n, n_genes = len(table), truth.n_vars
    matrix = truth.X  # of a view: sliced anew by every look
    matrix = matrix.tocsr() if sparse.issparse(matrix) else np.asarray(matrix)

    mean = pseudobulks(matrix[test], codes, n)
    control = {half: np.full((n, n_genes), np.nan) for half in ("control_input", "control_reference")}
    n_control = {half: np.zeros(n, dtype=np.int32) for half in control}
    z, p, p_adjusted = (np.full((n, n_genes), np.nan) for _ in range(3))
    for name, members in table.groupby(table["context"].astype(str)).indices.items():
        rows = {half: np.flatnonzero((role == half) & (context == name)) for half in control}
        for half, cells in rows.items():
            n_control[half][members] = len(cells)
            if len(cells):
                control[half][members] = pseudobulks(matrix[cells], np.zeros(len(cells), dtype=np.int64), 1)
        if _too_few(n_control)[members].any():
            continue
        controls = SortedCells.of(dense(matrix[rows["control_reference"]]))
        for i in members:
            cells = test[codes == i]
            if len(cells) > 1:
                z[i], p[i] = wilcoxon(dense(matrix[cells]), controls)
                p_adjusted[i] = adjust(p[i])
    conditions = _conditions(truth, table, test, codes, n_control, p_adjusted)
    return Truth(
        conditions=conditions,
        genes=truth.var_names.to_numpy(dtype=object),
        mean=mean.astype(np.float32),
        control_input=control["control_input"].astype(np.float32),
        control_reference=control["control_reference"].astype(np.float32),
        z=z.astype(np.float32),
        p_value=p,
        p_adjusted=p_adjusted,
        order=de_order(p_adjusted, mean - control["control_reference"], truth.var_names.to_numpy(dtype=str)),
    )


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
    test: np.ndarray,
    codes: np.ndarray,
    n_control: dict[str, np.ndarray],
    p_adjusted: np.ndarray,
) -> pd.DataFrame:
    n_cells = np.bincount(codes, minlength=len(table))
    n_controls = n_control["control_input"] + n_control["control_reference"]
    too_few = _too_few(n_control)
    few = ~too_few & (n_controls < FEW_CONTROLS)
    marks = {"few_controls": few, "too_few_controls": too_few, "one_profile": n_cells == 1}
    tested = ~np.isnan(p_adjusted).any(axis=1)
    n_deg = pd.array((p_adjusted < FDR).sum(axis=1), dtype="Int32")
    n_deg[~tested] = pd.NA
    conditions = table[[*CONDITION, "modality"]].astype(str)
    return conditions.assign(
        cluster=_clusters(truth, table, test, codes),
        n_cells=n_cells.astype(np.int32),
        n_control_input=n_control["control_input"],
        n_control_reference=n_control["control_reference"],
        n_controls=n_controls,
        n_deg=n_deg,
        n_seen=table["n_seen"].to_numpy(np.int32),
        flags=[";".join(name for name, mask in marks.items() if mask[i]) for i in range(len(table))],
    )


def _clusters(truth: ad.AnnData, table: pd.DataFrame, test: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The one value of the held-out unit that the test cells of each condition share."""
    column = metadata(truth).get("cluster")
    if column not in truth.obs:
        raise ContractError(f"truth: uns['trueshift']['cluster'] is {column}, which is no column of obs; set cluster:")
    values = pd.Series(truth.obs[column].astype(str).to_numpy()[test]).groupby(codes).agg(["first", "nunique"])
    mixed = np.flatnonzero(values["nunique"] > 1)
    if len(mixed):
        name = " | ".join(table[CONDITION].astype(str).iloc[mixed[0]])
        raise ContractError(
            f"truth: test cells of the condition {name} have several values of {column}, so it is in no single "
            "cluster; in the split, set cluster: perturbation or context"
        )
    return values["first"].to_numpy()


# --- the file -----------------------------------------------------------------------------------------


def to_table(truth: Truth) -> pd.DataFrame:
    """The long form: one row per condition × gene, conditions and genes in their order.

    Columns: those of ``conditions``, repeated (text as categories), then gene, mean, control_input, control_reference,
    z, p_value, p_adjusted and rank (int32, 1 = most differentially expressed).
    """
    n, n_genes = truth.order.shape
    text = [column for column in truth.conditions if column in _TEXT]
    table = truth.conditions.astype(dict.fromkeys(text, "category")).iloc[np.repeat(np.arange(n), n_genes)]
    table["gene"] = pd.Categorical.from_codes(np.tile(np.arange(n_genes, dtype=np.int32), n), pd.Index(truth.genes))
    for name in _STORED:
        table[name] = getattr(truth, name).ravel()
    table["rank"] = (np.argsort(truth.order, axis=1) + 1).astype(np.int32).ravel()
    return table.reset_index(drop=True)


def from_table(table: pd.DataFrame) -> Truth:
    """Undoes :func:`to_table` exactly."""
    n_genes = table["gene"].nunique()
    shape = (len(table) // n_genes, n_genes)
    rank = table["rank"].to_numpy().reshape(shape)
    return Truth(
        conditions=_plain(table.iloc[::n_genes][[c for c in table if c not in ("gene", "rank", *_STORED)]]),
        genes=table["gene"].iloc[:n_genes].to_numpy(dtype=object),
        order=np.argsort(rank, axis=1).astype(np.int32),
        **{name: table[name].to_numpy().reshape(shape) for name in _STORED},
    )


def _plain(conditions: pd.DataFrame) -> pd.DataFrame:
    return conditions.astype({c: object for c in conditions if c in _TEXT}).reset_index(drop=True)


def write_truth(truth: Truth, path: str | Path) -> None:
    """Writes ``truth_stats.parquet``."""
    write_table(to_table(truth), path)


def read_truth(path: str | Path) -> Truth:
    """Reads ``truth_stats.parquet``."""
    table = read_table(path)
    missing = [c for c in [*CONDITION_COLUMNS, "gene", "rank", *_STORED] if c not in table]
    if missing:
        raise ContractError(f"{path}: the column {missing[0]} is missing; make the file again with this version")
    return from_table(table)


def read_conditions(path: str | Path) -> pd.DataFrame:
    """Only the table of conditions of ``truth_stats.parquet``, without reading the genes."""
    if not Path(path).exists():
        raise ContractError(f"{path}: no such file")
    return _plain(pd.read_parquet(path, columns=CONDITION_COLUMNS, filters=[("rank", "==", 1)]))
