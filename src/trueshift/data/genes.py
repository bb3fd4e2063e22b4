"""Gene selection, from training cells only.

The highly variable genes are scanpy's (Wolf et al. 2018, Genome Biology 19:15).
"""

import warnings
from collections.abc import Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift import values
from trueshift.contract import ContractError, components, metadata, target_gene
from trueshift.data.matrices import as_csr
from trueshift.data.options import in_range, options
from trueshift.data.roles import fitting_cells, roles_of

FEW = 32  # dense rows that become float64 together: they stay in the cache
GENES_DEFAULTS: dict[str, Any] = {"n_top": 2000, "flavor": "seurat_v3", "batch_aware": False}
FLAVORS = ("seurat_v3", "seurat", "all")


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
