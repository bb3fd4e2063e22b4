"""What is true of the conditions of a test, as arrays and as ``truth_stats.parquet``."""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trueshift.contract import CONDITION, ContractError, check_intact, components, read_table, write_table

FDR = 0.05
CONDITION_COLUMNS = [*CONDITION, "modality", "cluster", "n_cells", "n_control_input", "n_control_reference"]
CONDITION_COLUMNS += ["n_controls", "n_deg", "n_seen", "flags", "bandwidth", "distance_within", "kernel_within"]
_TEXT = [*CONDITION, "modality", "cluster", "flags"]


@dataclass(frozen=True)
class Truth:
    """What is true of C tested conditions and G genes; the arrays have shape (C, G).

    ``conditions`` has one row per condition (:data:`CONDITION_COLUMNS`), in the order asked:
    ``cluster`` is its value of the unit that the split holds out; ``n_cells`` its test cells; ``n_control_input``,
    ``n_control_reference`` and their sum ``n_controls`` the controls of its context; ``n_deg`` the genes with adjusted
    p < .05, missing where no test is possible; ``n_seen`` how many components of the perturbation the model has seen;
    ``flags`` names joined by ``;``: few_controls (40-99 controls; of profiles 2-9), too_few_controls (fewer, or one
    half empty), paired (profiles with controls of their own: no test), one_profile (a single cell or profile: no test,
    genes in the order of |x − c_ref|); ``bandwidth`` the median distance of two of its test cells,
    ``distance_within`` and ``kernel_within`` the means over pairs of them, NaN for a single one.
    """

    conditions: pd.DataFrame
    genes: np.ndarray
    """Names, shape (G,)."""
    mean: np.ndarray
    """x: mean of the test cells, on the scale of X (mean log1p for single cells), float32."""
    variance: np.ndarray
    """Of the test cells, n − 1 in the denominator, float32; NaN for a single one."""
    control_input: np.ndarray
    """c_in: mean of the input controls of the context, float32; NaN if there are none."""
    control_reference: np.ndarray
    """c_ref: mean of the reference controls of the context, float32; NaN if there are none."""
    train_centre: np.ndarray
    """μ_c: mean of the perturbed training centroids of the context, float32; NaN if there are none."""
    train_delta: np.ndarray
    """δ̄: mean over perturbed training conditions of (centroid − controls of its context), the same in all rows."""
    z: np.ndarray
    """Rank-sum statistic against the reference controls, positive where higher than in controls, float32."""
    p_value: np.ndarray
    """Its two-sided p, float64; NaN where no test is possible."""
    p_adjusted: np.ndarray
    """Benjamini-Hochberg over the genes of the condition, float64."""
    order: np.ndarray
    """Gene positions, most differentially expressed first, int32."""

    @cached_property
    def controls_suffice(self) -> np.ndarray:
        """Whether scores that need controls are defined, shape (C,)."""
        return ~self._flagged("too_few_controls")

    @cached_property
    def paired(self) -> np.ndarray:
        """Whether the profiles of a condition are paired with controls of their own, shape (C,)."""
        return self._flagged("paired")

    def _flagged(self, flag: str) -> np.ndarray:
        return np.array([flag in flags.split(";") for flags in self.conditions["flags"].astype(str)], dtype=bool)

    @property
    def panel(self) -> np.ndarray:
        """Which conditions were tested together, in one context: integers, shape (C,)."""
        return pd.factorize(self.conditions["context"])[0]

    @property
    def targets(self) -> list[np.ndarray]:
        """For each condition the positions of the measured genes that its perturbation is named after."""
        genes = pd.Index(self.genes)
        found = [genes.get_indexer(components(label)) for label in self.conditions["perturbation"]]
        return [np.unique(positions[positions >= 0]) for positions in found]

    def take(self, rows: np.ndarray, **changed: np.ndarray) -> "Truth":
        """The conditions at positions ``rows``, with some arrays replaced by others of that many rows."""
        kept = {name: changed[name] if name in changed else getattr(self, name)[rows] for name in ARRAYS}
        return replace(self, conditions=self.conditions.iloc[rows].reset_index(drop=True), **kept)


ARRAYS = [field.name for field in fields(Truth)][2:]
_STORED = [name for name in ARRAYS if name != "order"]  # order is stored as the rank of each gene


def to_table(truth: Truth) -> pd.DataFrame:
    """The long form: one row per condition × gene, conditions and genes in their order.

    Columns: those of ``conditions``, repeated (text as categories), then gene, the arrays of :class:`Truth`, and rank
    (int32, 1 = most differentially expressed).
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
    check_intact(path)
    return _plain(pd.read_parquet(path, columns=CONDITION_COLUMNS, filters=[("rank", "==", 1)]))


def _plain(conditions: Any) -> pd.DataFrame:
    return conditions.astype({c: object for c in conditions if c in _TEXT}).reset_index(drop=True)
