"""Quality control: which cells and genes stay."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift import values
from trueshift.contract import CONDITION, ContractError, condition_codes, kind_of, metadata
from trueshift.data.canonical.features import counted
from trueshift.data.options import in_range, options
from trueshift.kinds import KINDS

QC_DEFAULTS: dict[str, Any] = {
    "min_genes": 200,
    "min_cells": 50,
    "max_mito": None,
    "mito_prefix": "MT-",
    "confirm_loss": False,
    "max_loss": 0.3,
}


class Found(NamedTuple):
    """What quality control looks at: ``cells`` (:func:`found_in`), and for each gene the cells it is found in, (G,)."""

    cells: pd.DataFrame
    genes: np.ndarray


def found_in(adata: ad.AnnData, mito_prefix: str, rows: np.ndarray | None = None) -> Found:
    """Counts values of all cells, or of some, in one pass.

    Per cell: ``total`` (sum of X), ``genes`` (values that are not 0), ``mito`` (share of mitochondrial genes), NaN
    where no gene name begins with ``mito_prefix``, and in cells without any count.
    """
    names = adata.obs_names if rows is None else adata.obs_names[rows]
    is_mito = np.asarray(adata.var_names.str.startswith(mito_prefix), dtype=bool)
    total, mito = np.empty(len(names)), np.full(len(names), np.nan)
    genes, in_cells = np.empty(len(names), dtype=np.int64), np.zeros(adata.n_vars, dtype=np.int64)
    for places, matrix in values.blocks(adata, rows):
        if sparse.issparse(matrix):
            matrix = matrix.tocsr()
            found = matrix != 0
            total[places] = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
            genes[places] = np.asarray(found.sum(axis=1)).ravel()
            in_cells += np.asarray(found.sum(axis=0)).ravel()
        else:
            zeros = np.flatnonzero(matrix == 0)  # of an array there are few
            # float32 sums values that follow one another in pairs: right to 1e-6 of their magnitudes, and faster
            total[places] = np.ascontiguousarray(matrix).sum(axis=1)
            genes[places] = adata.n_vars - np.bincount(zeros // adata.n_vars, minlength=len(places))
            in_cells += len(places) - np.bincount(zeros % adata.n_vars, minlength=adata.n_vars)
        if is_mito.any():
            part = np.asarray(matrix[:, is_mito].sum(axis=1, dtype=np.float64)).ravel()
            counted = total[places] > 0
            mito[places[counted]] = part[counted] / total[places[counted]]
    return Found(pd.DataFrame({"total": total, "genes": genes, "mito": mito}, index=names), in_cells)


def qc_settings(adata: ad.AnnData, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of quality control, with the defaults of the kind of data for those not given."""
    return options(settings, {**QC_DEFAULTS, **kind_of(adata).qc_defaults}, "qc")


def quality_control(
    adata: ad.AnnData, settings: Mapping[str, Any] | None, found: Found | None = None
) -> tuple[ad.AnnData, dict[str, Any]]:
    """Removes cells with few genes (or a high mitochondrial share), then genes found in few of the cells left.

    A gene is found in a cell where its value is not 0; of profiles and signatures no cell or gene goes unless settings
    say so. ``max_mito`` is a share (0.2 is 20%) and needs counts; for the
    other kinds it is skipped and the report's ``notes`` say so. Returns the data kept and the report (JSON types):
    cells and genes before, after and removed by reason; features that import left out because they are not genes, by
    type; cells and controls per context; cells per condition; conditions that vanished. ``found`` is what
    :func:`found_in` counts, where that is at hand.

    Raises :class:`ContractError` where more than ``max_loss`` of the cells or genes would go (unless
    ``confirm_loss``), where a context loses all its controls, and where nothing is left.
    """
    kind = metadata(adata)["kind"]
    chosen = qc_settings(adata, settings)
    in_range(chosen["max_loss"], 0, 1, "qc: max_loss")
    name = metadata(adata).get("dataset", "data")
    notes: list[str] = []
    stats, in_cells = found or found_in(adata, chosen["mito_prefix"])
    few_genes = stats["genes"].to_numpy() < chosen["min_genes"]
    high_mito = _high_mito(stats, kind, chosen, notes) & ~few_genes
    keep_cells = ~(few_genes | high_mito)
    if not keep_cells.all():
        in_cells = in_cells - found_in(adata, chosen["mito_prefix"], np.flatnonzero(~keep_cells)).genes
    keep_genes = in_cells >= chosen["min_cells"]

    removed_cells = {"min_genes": int(few_genes.sum()), "max_mito": int(high_mito.sum())}
    removed_genes = {"min_cells": int((~keep_genes).sum())}
    why_cells = f"{removed_cells['min_genes']} have fewer than min_genes: {chosen['min_genes']} genes"
    if removed_cells["max_mito"]:
        why_cells += f", {removed_cells['max_mito']} a mitochondrial share above max_mito: {chosen['max_mito']}"
    _refuse_loss(name, "cells", keep_cells, why_cells, chosen)
    why_genes = f"{removed_genes['min_cells']} are found in fewer than min_cells: {chosen['min_cells']} cells"
    _refuse_loss(name, "genes", keep_genes, why_genes, chosen)

    contexts = _contexts_before_after(adata.obs, keep_cells)
    lost = contexts[(contexts["controls_before"] > 0) & (contexts["controls_after"] == 0)]
    if len(lost):
        row = lost.iloc[0]
        raise ContractError(
            f"qc of {name}: context {row['context']} loses all its {row['controls_before']} control cells "
            f"({why_cells}); lower the thresholds or filter the context out"
        )
    conditions = _conditions_before_after(adata.obs, keep_cells)
    vanished = conditions[conditions["after"] == 0]
    if len(vanished):
        notes.append(f"{len(vanished)} conditions lost all their cells")
    mixed = adata.obs.groupby("batch", observed=True)["is_control"].nunique() > 1
    if len(mixed) > 1 and not mixed.any():
        notes.append(
            "every batch holds only treated or only control cells: effects cannot be told from batches; "
            "map batch to what both share (columns: batch)"
        )
    not_genes = counted(metadata(adata))
    if not_genes:
        shown = ", ".join(f"{number} {name}" for name, number in not_genes.items())
        notes.append(f"features that are not genes, left out at import: {shown}")
    report = {
        "dataset": name,
        "kind": kind,
        "settings": chosen,
        "cells": {"before": adata.n_obs, "after": int(keep_cells.sum()), "removed": removed_cells},
        "genes": {
            "before": adata.n_vars,
            "after": int(keep_genes.sum()),
            "removed": removed_genes,
            "not_genes": not_genes,
        },
        "contexts": contexts.to_dict("records"),
        "conditions": conditions.to_dict("records"),
        "vanished_conditions": vanished[CONDITION].to_dict("records"),
        "notes": notes,
    }
    return adata[keep_cells, keep_genes].copy(), report


def _high_mito(stats: pd.DataFrame, kind: str, chosen: dict[str, Any], notes: list[str]) -> np.ndarray:
    limit = chosen["max_mito"]
    if limit is None:
        return np.zeros(len(stats), dtype=bool)
    if not KINDS[kind].raw_counts:
        notes.append(f"max_mito skipped: a share of counts cannot be computed from kind {kind}")
        return np.zeros(len(stats), dtype=bool)
    if in_range(limit, 0, 100, "qc: max_mito") > 1:
        raise ContractError(f"qc: max_mito is {limit}; it is a share, so write {limit / 100:g} for {limit:g}%")
    if stats["mito"].isna().all():
        raise ContractError(
            f"qc: max_mito is {limit} but no gene name begins with mito_prefix {chosen['mito_prefix']!r}; "
            "correct the prefix or set max_mito: null"
        )
    return (stats["mito"] > limit).to_numpy()


def _refuse_loss(name: str, what: str, keep: np.ndarray, why: str, chosen: dict[str, Any]) -> None:
    lost = int((~keep).sum())
    fact = f"qc of {name}: {lost} of {len(keep)} {what} ({lost / max(len(keep), 1):.0%}) would be removed: {why}"
    if lost == len(keep):
        raise ContractError(f"{fact}; none is left: lower the threshold in the dataset's qc: settings")
    if lost > chosen["max_loss"] * len(keep) and not chosen["confirm_loss"]:
        raise ContractError(
            f"{fact}; more than max_loss ({chosen['max_loss']:.0%}) goes: lower the threshold in the dataset's qc: "
            "settings, or set confirm_loss: true if this is meant"
        )


def _contexts_before_after(obs: pd.DataFrame, keep: np.ndarray) -> pd.DataFrame:
    control = obs["is_control"].to_numpy(dtype=bool)
    counted = pd.DataFrame(
        {
            "context": obs["context"].astype(str).to_numpy(),
            "cells_before": 1,
            "cells_after": keep.astype(int),
            "controls_before": control.astype(int),
            "controls_after": (control & keep).astype(int),
        }
    )
    return counted.groupby("context", as_index=False).sum()


def _conditions_before_after(obs: pd.DataFrame, keep: np.ndarray) -> pd.DataFrame:
    table, codes = condition_codes(obs)
    table["before"] = np.bincount(codes, minlength=len(table))
    table["after"] = np.bincount(codes[keep], minlength=len(table))
    return table
