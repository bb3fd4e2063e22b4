"""Normalisation: counts scaled per cell, then log1p.

It follows scanpy's arithmetic (Wolf et al. 2018, Genome Biology 19:15) without importing it: the import takes longer
than the work.
"""

import copy
from collections.abc import Mapping
from typing import Any

import anndata as ad
import numpy as np
from scipy import sparse

from trueshift import values
from trueshift.contract import ContractError, kind_of, metadata
from trueshift.data.matrices import as_csr, as_stored
from trueshift.data.options import in_range, options

NORMALIZE_DEFAULTS: dict[str, Any] = {"target_sum": 10_000, "size_factor": False}


def normalize(adata: ad.AnnData, settings: Mapping[str, Any] | None) -> ad.AnnData:
    """log1p of counts scaled to ``target_sum`` per cell, float32; the counts stay in ``layers["counts"]``, both CSR.

    ``target_sum`` is a number, or ``"median"`` for the median of the cells' totals. The total is the cell's row sum,
    or with ``size_factor: true`` the column obs["size_factor"] (totals of the full transcriptome, for data that hold
    a subset of the genes). Kinds that are not counts pass through. What was done stands in
    ``uns["trueshift"]["normalization"]``.

    Raises :class:`ContractError` for cells whose total is not positive.
    """
    chosen = options(settings, NORMALIZE_DEFAULTS, "normalize")
    kind = kind_of(adata)
    if not kind.raw_counts:
        result = adata.copy() if values.are_apart(adata) else _with_matrix(adata, as_stored(adata.X, kind))
        name = metadata(adata)["kind"]
        metadata(result)["normalization"] = f"passed through: kind {name} is already normalised"
        return result
    matrix = as_csr(adata.X)
    totals, source = _totals(adata, matrix, chosen["size_factor"])
    target = chosen["target_sum"]
    if target != "median":
        target = in_range(target, 1, 1e9, 'normalize: target_sum (or "median")')
    scale = float(np.median(totals) if target == "median" else target)
    logs = matrix.copy()
    logs.data = np.log1p(logs.data * np.repeat(scale / totals, np.diff(logs.indptr))).astype(np.float32)
    result = _with_matrix(adata, logs, layers={"counts": matrix})
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


def _with_matrix(adata: ad.AnnData, matrix: Any, layers: Mapping[str, Any] | None = None) -> ad.AnnData:
    """The same cells, genes and ``uns`` (a deep copy) around another X; other layers and embeddings are dropped."""
    return ad.AnnData(
        matrix, obs=adata.obs.copy(), var=adata.var.copy(), uns=copy.deepcopy(dict(adata.uns)), layers=layers
    )
