"""Quality control, normalisation, gene selection, regression and scaling.

Each follows scanpy's arithmetic (Wolf et al. 2018, Genome Biology 19:15), without importing it where a few lines do:
its import takes longer than most of these stages. Gene selection and everything fitted sees training cells only.
"""

import copy
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift import values
from trueshift.contract import (
    CONDITION,
    ContractError,
    components,
    condition_codes,
    dense,
    metadata,
    target_gene,
)
from trueshift.data.canonical.features import counted
from trueshift.data.options import in_range, options
from trueshift.data.roles import fitting_cells, roles_of

QC_DEFAULTS: dict[str, Any] = {
    "min_genes": 200,
    "min_cells": 50,
    "max_mito": None,
    "mito_prefix": "MT-",
    "confirm_loss": False,
    "max_loss": 0.3,
}
# A value of 0 means "not found" in counts; of an array it is one intensity among others.
QC_DEFAULTS_OF_PROFILES = {**QC_DEFAULTS, "min_genes": 0, "min_cells": 0}
NORMALIZE_DEFAULTS: dict[str, Any] = {"target_sum": 10_000, "size_factor": False}
FEW = 32  # dense rows that become float64 together: they stay in the cache
GENES_DEFAULTS: dict[str, Any] = {"n_top": 2000, "flavor": "seurat_v3", "batch_aware": False}
FLAVORS = ("seurat_v3", "seurat", "all")
# Regressing out what the test asks for would remove the effect itself.
NEVER_REGRESSED = ("perturbation", "dose", "modality", "is_control", "control_id")


def as_csr(matrix: Any) -> sparse.csr_matrix:
    """The matrix as float32 CSR, explicit zeros removed; never the same object, so it may be changed."""
    result = sparse.csr_matrix(matrix, dtype=np.float32, copy=True)
    result.eliminate_zeros()
    return result


def with_matrix(adata: ad.AnnData, matrix: Any, layers: Mapping[str, Any] | None = None) -> ad.AnnData:
    """The same cells, genes and ``uns`` (a deep copy) around another X; other layers and embeddings are dropped."""
    return ad.AnnData(
        matrix, obs=adata.obs.copy(), var=adata.var.copy(), uns=copy.deepcopy(dict(adata.uns)), layers=layers
    )


# --- quality control ----------------------------------------------------------------------------------


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
    cells = metadata(adata)["kind"] in ("counts", "lognorm")
    return options(settings, QC_DEFAULTS if cells else QC_DEFAULTS_OF_PROFILES, "qc")


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
    if kind != "counts":
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


# --- normalisation ------------------------------------------------------------------------------------


def normalize(adata: ad.AnnData, settings: Mapping[str, Any] | None) -> ad.AnnData:
    """log1p of counts scaled to ``target_sum`` per cell, float32; the counts stay in ``layers["counts"]``, both CSR.

    ``target_sum`` is a number, or ``"median"`` for the median of the cells' totals. The total is the cell's row sum,
    or with ``size_factor: true`` the column obs["size_factor"] (totals of the full transcriptome, for data that hold
    a subset of the genes). Kinds that are not counts pass through. What was done stands in
    ``uns["trueshift"]["normalization"]``.

    Raises :class:`ContractError` for cells whose total is not positive.
    """
    chosen = options(settings, NORMALIZE_DEFAULTS, "normalize")
    kind = metadata(adata)["kind"]
    if kind != "counts":
        if values.are_apart(adata):
            result = adata.copy()
        else:
            result = with_matrix(adata, dense(adata.X) if kind in values.DENSE else as_csr(adata.X))
        metadata(result)["normalization"] = f"passed through: kind {kind} is already normalised"
        return result
    matrix = as_csr(adata.X)
    totals, source = _totals(adata, matrix, chosen["size_factor"])
    target = chosen["target_sum"]
    if target != "median":
        target = in_range(target, 1, 1e9, 'normalize: target_sum (or "median")')
    scale = float(np.median(totals) if target == "median" else target)
    logs = matrix.copy()
    logs.data = np.log1p(logs.data * np.repeat(scale / totals, np.diff(logs.indptr))).astype(np.float32)
    result = with_matrix(adata, logs, {"counts": matrix})
    median = " (the median)" if target == "median" else ""
    metadata(result)["normalization"] = f"log1p of counts scaled to {scale:g}{median} per cell by {source}"
    return result


def _totals(adata: ad.AnnData, matrix: sparse.csr_matrix, size_factor: bool) -> tuple[np.ndarray, str]:
    if size_factor:
        if "size_factor" not in adata.obs:
            raise ContractError(
                "normalize: size_factor is true but obs has no column size_factor; "
                "map it in the dataset's columns: settings"
            )
        totals, source = adata.obs["size_factor"].to_numpy(dtype=np.float64), "obs size_factor"
        remedy = "give every cell a positive size factor"
    else:
        totals, source = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel(), "the cell's total"
        remedy = "remove such cells in qc (min_genes: 1 or more)"
    bad = ~(np.isfinite(totals) & (totals > 0))
    if bad.any():
        raise ContractError(
            f"normalize: {int(bad.sum())} cells have no positive total ({source}), "
            f"first {adata.obs_names[np.flatnonzero(bad)[0]]}; {remedy}"
        )
    return totals, source


# --- genes --------------------------------------------------------------------------------------------


def select_genes(adata: ad.AnnData, split: pd.DataFrame, settings: Mapping[str, Any] | None) -> pd.DataFrame:
    """Highly variable genes of the training cells, and the measured target genes of all perturbations.

    ``adata`` is normalised data, ``split`` its roles; only :func:`trueshift.data.roles.fitting_cells` are looked at.
    Returns one row per gene in the order of the data: gene, mean (of X over those cells), score (``seurat_v3``:
    variance of standardised counts, Stuart et al. 2019; ``seurat``: normalised dispersion, Satija et al. 2015;
    otherwise variance), selected, reason (hvg, target, all, preselected or empty), flavor (what was used and why).
    """
    chosen = options(settings, GENES_DEFAULTS, "genes")
    if chosen["flavor"] not in FLAVORS:
        raise ContractError(f"genes: flavor is {chosen['flavor']!r}; use one of {', '.join(FLAVORS)}")
    n_top = int(in_range(chosen["n_top"], 1, 1e9, "genes: n_top"))
    fit = np.flatnonzero(fitting_cells(roles_of(split, adata.obs), adata.obs))
    if not len(fit):
        raise ContractError("genes: the split has no training cells to select genes on")
    preselected = bool(metadata(adata).get("preselected_genes", False))
    mean, variance = _moments_of(adata, fit)
    table = pd.DataFrame({"gene": adata.var_names.astype(str), "mean": mean, "score": variance})

    if chosen["flavor"] == "all" or n_top >= adata.n_vars:
        table["selected"] = True
        table["reason"] = "preselected" if preselected else "all"
        table["flavor"] = "selection not ours: the source came preselected" if preselected else "every gene kept"
        return table
    flavor, said = chosen["flavor"], chosen["flavor"]
    if flavor == "seurat_v3" and "counts" not in adata.layers:
        flavor, said = "seurat", "seurat on log data: there are no counts for seurat_v3"
    matrix = as_csr(adata.layers["counts"][fit] if flavor == "seurat_v3" else values.matrix_of(adata, fit))
    varies = _moments(matrix)[1] > 0
    if not varies.any():
        raise ContractError(
            f"genes: no gene varies among the {len(fit)} training cells (flavor {flavor}), so none can be selected; "
            "check the normalisation, or set flavor: all"
        )
    batches = adata.obs["batch"].astype(str).to_numpy()[fit] if chosen["batch_aware"] else None
    score, highest = _scanpy_scores(matrix, adata.var_names, flavor, n_top, batches)
    highest &= varies
    if not highest.any():
        raise ContractError(f"genes: flavor {flavor} selects no gene; set flavor: seurat, or flavor: all")
    targets = {
        target_gene(part) for label in adata.obs["perturbation"].astype(str).unique() for part in components(label)
    }
    is_target = adata.var_names.isin(targets)
    table["score"] = score
    table["selected"] = highest | is_target
    table["reason"] = np.where(highest, "hvg", np.where(is_target, "target", ""))
    table["flavor"] = said + (", among genes that the source preselected" if preselected else "")
    return table


def _moments_of(adata: ad.AnnData, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (n in the denominator) of every gene over some cells, float64; dense values in one pass."""
    if sparse.issparse(adata.X):
        return _moments(adata.X[rows].tocsr())
    sums, squares = np.zeros((2, adata.n_vars))
    for _, matrix in values.blocks(adata, rows):
        for start in range(0, len(matrix), FEW):
            some = matrix[start : start + FEW].astype(np.float64)
            sums += np.ones(len(some)) @ some
            squares += np.einsum("ij,ij->j", some, some)
    mean = sums / len(rows)
    return mean, np.maximum(squares / len(rows) - mean**2, 0)


def _moments(matrix: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (n in the denominator) of every column, float64."""
    mean = np.asarray(matrix.mean(axis=0, dtype=np.float64)).ravel()
    square = np.asarray(matrix.astype(np.float64).power(2).mean(axis=0)).ravel()
    return mean, np.maximum(square - mean**2, 0)


def _scanpy_scores(
    values: Any, names: pd.Index, flavor: str, n_top: int, batches: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """scanpy's score of every gene, 0 where undefined, and the mask of the ``n_top`` highest."""
    import scanpy as sc  # five seconds: only the two flavours that need it pay for them

    obs = pd.DataFrame(index=[str(i) for i in range(values.shape[0])])
    if batches is not None:
        obs["batch"] = pd.Categorical(batches)
    cells = ad.AnnData(values, obs=obs, var=pd.DataFrame(index=names))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scanpy's own deprecations; what matters is checked below
            sc.pp.highly_variable_genes(
                cells, n_top_genes=n_top, flavor=flavor, batch_key=None if batches is None else "batch"
            )
    except (ValueError, IndexError) as error:  # a loess that cannot be fitted; a batch without variable genes
        raise ContractError(
            f"genes: flavor {flavor} failed on {values.shape[0]} training cells × {values.shape[1]} genes ({error}); "
            "set flavor: seurat, or batch_aware: false where a batch has few cells"
        ) from error
    score = cells.var["variances_norm" if flavor == "seurat_v3" else "dispersions_norm"].to_numpy(dtype=np.float64)
    return np.where(np.isfinite(score), score, 0), cells.var["highly_variable"].to_numpy(dtype=bool)


# --- regression and scaling ---------------------------------------------------------------------------


def covariates(adata: ad.AnnData, names: list[str], fit: np.ndarray) -> np.ndarray:
    """The columns to regress out, shape (N, p), with an intercept first; text columns become indicators.

    ``total_counts`` and ``n_genes`` are computed from ``layers["counts"]``; every other name is a column of obs.
    Raises :class:`ContractError` for unknown names, for what the test asks about, and for levels without cells in
    ``fit`` (a mask, shape (N,)), whose effect cannot be known.
    """
    parts = [np.ones((adata.n_obs, 1))]
    for name in names:
        if name in NEVER_REGRESSED:
            raise ContractError(f"partition: regress_out: {name} would remove the effect under test; take it out")
        if name in ("total_counts", "n_genes") and name not in adata.obs:
            if "counts" not in adata.layers:
                raise ContractError(f"partition: regress_out: {name} needs counts, and these data have none")
            counts = adata.layers["counts"]
            per_cell = counts.sum(axis=1, dtype=np.float64) if name == "total_counts" else (counts != 0).sum(axis=1)
            column = pd.Series(np.asarray(per_cell).ravel())
        elif name in adata.obs:
            column = adata.obs[name].reset_index(drop=True)
        else:
            raise ContractError(
                f"partition: regress_out: no column {name}; use total_counts, n_genes or one of "
                f"{', '.join(c for c in adata.obs if c not in NEVER_REGRESSED)}"
            )
        parts.append(_numeric(column, name, fit))
    return np.hstack(parts)


def _numeric(column: pd.Series, name: str, fit: np.ndarray) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy(dtype=np.float64)[:, None]
        if not np.isfinite(values).all():
            raise ContractError(f"partition: regress_out: column {name} has missing values; fill or drop it")
        spread = values[fit].std()
        return (values - values[fit].mean()) / (spread if spread > 0 else 1)
    text = column.astype(str).to_numpy()
    levels, unknown = np.unique(text[fit]), sorted(set(text) - set(text[fit]))
    if unknown:
        raise ContractError(
            f"partition: regress_out: {name} {unknown[0]} has no training cells, so its effect cannot be fitted; "
            f"take {name} out of regress_out for this dataset"
        )
    return (text[:, None] == levels[None, 1:]).astype(np.float64)


def regress_and_scale(
    matrix: Any, design: np.ndarray | None, fit: np.ndarray, scale: Mapping[str, Any] | None
) -> np.ndarray:
    """Residuals of a linear regression on ``design``, then unit variance; both fitted on the cells in ``fit`` only.

    ``matrix`` has shape (N, G), ``design`` (from :func:`covariates`) (N, p) or None for no regression, ``fit`` is a
    mask, shape (N,). ``scale`` is None or ``{"max_value": number or null}``: genes are centred, divided by their
    standard deviation (n − 1) in the fitting cells, and clipped to ± ``max_value``. Returns float32, shape (N, G).
    Same arithmetic as scanpy's ``regress_out`` and ``scale`` on the fitting cells.
    """
    values = dense(matrix).astype(np.float64)
    if design is not None:
        coefficients = np.linalg.lstsq(design[fit], values[fit], rcond=None)[0]
        values -= design @ coefficients
    if scale is not None:
        limit = options(scale, {"max_value": None}, "partition: scale")["max_value"]
        deviation = values[fit].std(axis=0, ddof=1) if fit.sum() > 1 else np.zeros(values.shape[1])
        # A gene that regression leaves with rounding errors only is constant too: it must not be blown up.
        deviation[deviation < 1e-8] = 1
        values = (values - values[fit].mean(axis=0)) / deviation
        if limit is not None:
            values = values.clip(-limit, in_range(limit, 1e-6, 1e9, "partition: scale: max_value"))
    return values.astype(np.float32)
