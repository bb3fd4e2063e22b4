"""Regression of covariates and scaling to unit variance, fitted on training cells only.

Both follow scanpy's arithmetic (Wolf et al. 2018, Genome Biology 19:15).
"""

from collections.abc import Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from trueshift.contract import ContractError, dense
from trueshift.data.options import in_range, options

# Regressing out what the test asks for would remove the effect itself.
NEVER_REGRESSED = ("perturbation", "dose", "modality", "is_control", "control_id")


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
