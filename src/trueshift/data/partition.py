"""Cuts one dataset into what a model may learn from, what it is asked, and what only scoring opens."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from trueshift import values
from trueshift.contract import CANONICAL_OBS, ContractError, check_intact, kind_of, metadata
from trueshift.data.matrices import as_csr, as_stored
from trueshift.data.options import options
from trueshift.data.regression import covariates, regress_and_scale
from trueshift.data.roles import among, conditions_asked, fitting_cells, roles_of
from trueshift.data.split_checks import check_split
from trueshift.data.split_settings import held_out_unit

DEFAULTS: dict[str, Any] = {"regress_out": [], "scale": None, "split": None}
KEPT_OBS = (*CANONICAL_OBS, "control_id", "size_factor", "role")
KEPT_VAR = ("gene_id",)


def partition(
    adata: ad.AnnData, split: pd.DataFrame, genes: pd.DataFrame, settings: Mapping[str, Any]
) -> tuple[ad.AnnData, ad.AnnData, ad.AnnData]:
    """Returns (train, query, truth), float32 over the selected genes, CSR or of profiles dense, with obs["role"].

    ``train`` has roles train, val and control_input, ``query`` the input controls of the contexts asked and
    ``uns["conditions"]`` (:func:`trueshift.data.roles.conditions_asked`), ``truth`` roles test, control_reference and
    control_input with the same table. Train and query carry ``layers["counts"]`` where there is one, and
    ``uns["perturbation_features"]`` and ``uns["structures"]``; nothing else of ``uns``, ``obs`` or ``var`` passes but
    canonical columns, because a column computed on all cells would carry the truth along.

    ``settings``: ``split`` (the split's entry, checked again here), ``regress_out`` (covariates) and ``scale`` (null
    or max_value), both fitted on training cells and applied to all.
    """
    chosen = options(settings, DEFAULTS, "partition")
    if chosen["split"] is None:
        raise ContractError("partition: settings need split: the entry of the split, whose promises are checked again")
    check_split(split, adata.obs, chosen["split"], adata.uns.get("structures"))
    roles = roles_of(split, adata.obs)
    kept = _selected(genes, adata.var_names)

    whole = bool(kept.all())
    corrected = bool(chosen["regress_out"]) or chosen["scale"] is not None
    apart = values.are_apart(adata) and not corrected
    matrix: Any = None if apart else values.matrix_of(adata)
    if matrix is not None and not whole:
        matrix = matrix[:, kept]
    counts = adata.layers.get("counts")
    if counts is not None and not whole:
        counts = counts[:, kept]
    if corrected:
        fit = fitting_cells(roles, adata.obs)
        design = covariates(adata, chosen["regress_out"], fit) if chosen["regress_out"] else None
        matrix = regress_and_scale(matrix, design, fit, chosen["scale"])

    conditions = conditions_asked(adata.obs, roles)
    conditions.index = conditions.index.astype(str)
    var = adata.var.loc[kept, [column for column in KEPT_VAR if column in adata.var]]

    def cut(wanted: tuple[str, ...], with_counts: bool) -> ad.AnnData:
        rows = np.flatnonzero(among(roles, wanted))
        layers = {"counts": as_csr(counts[rows])} if with_counts and counts is not None else None
        uns = {"trueshift": copy.deepcopy(dict(metadata(adata)))}
        obs = _obs(adata.obs, roles, rows)
        if apart:
            return values.part(adata, rows, np.flatnonzero(kept), obs, var.copy(), uns)
        return ad.AnnData(as_stored(matrix[rows], kind_of(adata)), obs=obs, var=var.copy(), uns=uns, layers=layers)

    train = cut(("train", "val", "control_input"), with_counts=True)
    query = cut(("control_input",), with_counts=True)
    truth = cut(("test", "control_reference", "control_input"), with_counts=False)
    for part in (train, query):
        if "perturbation_features" in adata.uns:
            part.uns["perturbation_features"] = copy.deepcopy(dict(adata.uns["perturbation_features"]))
        if "structures" in adata.uns:
            part.uns["structures"] = adata.uns["structures"].copy()
    for part in (query, truth):
        part.uns["conditions"] = conditions.copy()
    metadata(truth)["cluster"] = held_out_unit(chosen["split"])
    return train, query, truth


def read_genes(path: str | Path) -> pd.DataFrame:
    """Reads genes.csv; gene names stay text, be they ``NA``, and an empty reason is empty text."""
    check_intact(path)
    return pd.read_csv(path, dtype={"gene": str, "reason": str, "flavor": str}, keep_default_na=False)


def _selected(genes: pd.DataFrame, names: pd.Index) -> np.ndarray:
    """The mask of selected genes, shape (G,); the table must list the data's genes in their order."""
    listed = genes["gene"].astype(str).tolist()
    if listed != names.astype(str).tolist():
        missing = sorted(set(names.astype(str)) - set(listed)) or sorted(set(listed) - set(names.astype(str)))
        what = f"first difference {missing[0]}" if missing else "another order"
        raise ContractError(
            f"partition: the gene table is not of these data ({what}); delete it so that it is made again"
        )
    kept = genes["selected"].to_numpy(dtype=bool)
    if not kept.any():
        raise ContractError("partition: the gene table selects no gene")
    return kept


def _obs(obs: pd.DataFrame, roles: np.ndarray, rows: np.ndarray) -> pd.DataFrame:
    """Canonical columns of some rows; labels that do not occur there leave no trace as unused categories."""
    part = obs.assign(role=pd.Categorical(roles)).iloc[rows]
    part = part[[column for column in KEPT_OBS if column in part]].copy()
    for column in part.select_dtypes("category"):
        part[column] = part[column].cat.remove_unused_categories()
    return part
