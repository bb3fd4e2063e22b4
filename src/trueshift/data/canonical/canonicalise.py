"""From a source's own columns to the canonical form that all later stages read.

What it reads of a dataset's entry:

* ``kind``: a name in :data:`trueshift.kinds.KINDS`
* ``filter``: on source columns, before mapping; see :func:`trueshift.data.canonical.columns.kept`
* ``columns``: where the canonical columns come from. ``perturbation`` (``from``, ``control``: label or labels,
  ``separator``: what joins combinations, default ``+``, null for none, ``extract``), ``context``, ``batch`` (default
  one batch ``all``), ``dose`` (default ``1``; ``unit``, that of doses written without one), ``modality`` (default
  ``unknown``): a column name,
  ``{from, extract}`` (first group of a regular expression) or ``{value}``; ``control_id``, ``size_factor``,
  ``smiles`` (of drugs), ``gene_symbol`` (a column of var), ``keep`` (a list of source columns to carry along)
* ``structures``: a file, table of perturbation and smiles, instead of or beside the column
* ``features``: name → ``simulated``, ``morgan`` or ``descriptors`` (computed from structures), or a file; see
  :func:`trueshift.data.features.tables.load_features`
* ``targets_measured``, ``preselected_genes``: booleans
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift import values
from trueshift.contract import (
    CANONICAL_OBS,
    CONTROL,
    SCHEMA_VERSION,
    ContractError,
    check_canonical,
    components,
)
from trueshift.data.canonical import checks, features
from trueshift.data.canonical.columns import column, kept, mapped, text
from trueshift.data.canonical.treatments import treatments
from trueshift.data.features.tables import load_features
from trueshift.data.local_files import Log, ensure
from trueshift.data.options import check_keys
from trueshift.kinds import KINDS, Kind

COLUMN_KEYS = {
    "perturbation": ("from", "control", "separator", "extract"),
    "context": ("from", "value", "extract"),
    "batch": ("from", "value", "extract"),
    "dose": ("from", "value", "extract", "unit"),
    "modality": ("from", "value", "extract"),
    "control_id": ("from", "extract"),
    "smiles": ("from", "extract"),
    "size_factor": ("from",),
    "gene_symbol": ("from",),
    "keep": (),
}
DEFAULTS: dict[str, Any] = {"batch": {"value": "all"}, "dose": {"value": "1"}, "modality": {"value": "unknown"}}


def canonicalise(
    raw: ad.AnnData,
    name: str,
    settings: Mapping[str, Any],
    provenance: Mapping[str, str],
    data_folder: str | Path = ".",
    log: Log = print,
) -> ad.AnnData:
    """Filters, maps and checks a source, shape (cells, genes); see above for ``settings``.

    Returns canonical AnnData: X float32 as in the source, CSR, dense of profiles and signatures; obs with the canonical
    columns; var with ``gene_id`` (the source's own names); uns with ``trueshift``, ``perturbation_features`` and, where
    SMILES are given, ``structures`` (:func:`~trueshift.data.features.structures.make_structures`). Raises
    :class:`ContractError` on anything that would make later stages wrong, naming the column, label, gene or context and
    the remedy.
    """
    where = f"dataset {name}"
    kind = settings.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ContractError(f"{where}: kind is {kind}, must be one of {', '.join(KINDS)}")
    columns = _column_settings(settings, where)

    keep = kept(raw.obs, settings.get("filter") or {}, where)
    if not keep.all():
        log(f"filter keeps {keep.sum()} of {len(keep)} cells")
    obs = raw.obs.loc[keep] if not keep.all() else raw.obs
    new, dose_unit = _canonical_obs(obs, columns, where, log)
    genes, others = features.expressed(raw.var, log)
    var = _canonical_var(raw.var, columns, where)[genes]
    if values.are_apart(raw):
        adata = values.part(raw, np.flatnonzero(keep), np.flatnonzero(genes), new, var)
    else:
        adata = ad.AnnData(_matrix(raw.X, keep, genes, KINDS[kind]), obs=new, var=var)

    checks.check_ids(adata, where)
    checks.check_controls(adata.obs, where)
    checks.check_pairs(adata.obs, where)
    if not values.are_apart(adata):  # these were checked on their way into the file
        checks.check_values(adata.X, adata.var_names, kind, where)
    adata.uns["trueshift"] = {
        "schema_version": SCHEMA_VERSION,
        "dataset": name,
        "kind": kind,
        "provenance": dict(provenance),
        "dose_unit": dose_unit,
        "targets_measured": bool(settings.get("targets_measured", False)),
        "preselected_genes": bool(settings.get("preselected_genes", False)),
        **features.noted(others),
    }
    singles = {part for label in new["perturbation"].cat.categories for part in components(label)}
    simulated = raw.uns.get("perturbation_features", {})
    wanted = settings.get("features") or {}
    structures = _structures(obs, adata.obs, singles, columns, settings, data_folder, where, log)
    if structures is not None:
        adata.uns["structures"] = structures
    adata.uns["perturbation_features"] = load_features(wanted, simulated, singles, data_folder, log, structures)
    if "simulation" in raw.uns:
        adata.uns["simulation"] = raw.uns["simulation"]
    check_canonical(adata, where)
    if settings.get("targets_measured"):
        _say_targets(singles, adata.var_names, log)
    log(
        f"{adata.n_obs} cells × {adata.n_vars} genes, {new['context'].nunique()} contexts, {new['batch'].nunique()} "
        f"batches, {new['perturbation'].nunique() - 1} perturbations, {int(new['is_control'].sum())} controls"
    )
    return adata


def _matrix(matrix: Any, keep: np.ndarray, genes: np.ndarray, kind: Kind) -> Any:
    """The kept rows and columns as float32; not copied unless need be."""
    if matrix.dtype == np.float16:  # SciPy has none
        matrix = matrix.astype(np.float32)
    if not kind.dense:
        matrix = sparse.csr_matrix(matrix)
    elif sparse.issparse(matrix):
        matrix = matrix.toarray()
    matrix = matrix if genes.all() else matrix[:, genes]
    return (matrix if keep.all() else matrix[keep]).astype(np.float32, copy=False)


def _column_settings(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    given = settings.get("columns") or {}
    check_keys(given, COLUMN_KEYS, f"{where}, columns")
    full = {}
    for key, spec in {**DEFAULTS, **given}.items():
        if key != "keep":
            spec = {"from": spec} if isinstance(spec, str) else spec
            check_keys(spec, COLUMN_KEYS[key], f"{where}, columns: {key}")
        full[key] = spec
    for key in ("perturbation", "context"):
        if key not in full:
            raise ContractError(f"{where}: columns: {key} is not mapped; name the source column")
    if full["perturbation"].get("control", "") in ("", []):  # null is one: cells without a label
        raise ContractError(f"{where}: columns: perturbation: control is not set; name the control label")
    return full


def _canonical_var(source: pd.DataFrame, columns: Mapping[str, Any], where: str) -> pd.DataFrame:
    names = ids = _names(source.index)
    if "gene_symbol" in columns:
        here = f"{where}, columns: gene_symbol"
        symbols = text(column(source, columns["gene_symbol"]["from"], here)).astype(object)
        names = pd.Index(symbols.where(symbols.notna(), ids.to_series(index=symbols.index)).astype(str))
    elif "gene_id" in source:
        return pd.DataFrame({"gene_id": source["gene_id"].astype(str).to_numpy()}, index=names)
    return pd.DataFrame({"gene_id": ids.to_numpy()}, index=names)


def _canonical_obs(obs: pd.DataFrame, columns: Mapping[str, Any], where: str, log: Log) -> tuple[pd.DataFrame, str]:
    """The canonical columns, and the unit of doses."""

    def labels(key: str, missing: bool = False) -> pd.Series:
        return mapped(obs, columns[key], f"{where}, columns: {key}", missing)

    new = pd.DataFrame(index=_names(obs.index))
    treated, unit = treatments(obs, columns, where, log)
    for key in ("perturbation", "modality", "dose"):
        new[key] = treated[key].to_numpy()
    new["context"], new["batch"] = labels("context").to_numpy(), labels("batch").to_numpy()
    new = new[[key for key in CANONICAL_OBS if key != "is_control"]].astype("category")
    new["is_control"] = (new["perturbation"] == CONTROL).to_numpy()
    if "control_id" in columns:
        ids = labels("control_id", missing=True)
        lacking = (ids.isna().to_numpy() & ~new["is_control"].to_numpy()).sum()
        if lacking:
            raise ContractError(f"{where}, columns: control_id: {lacking} perturbed profiles have none")
        new["control_id"] = ids.astype(object).where(ids.notna(), "").to_numpy()
    if "size_factor" in columns:
        name, here = columns["size_factor"]["from"], f"{where}, columns: size_factor"
        new["size_factor"] = checks.check_size_factors(column(obs, name, here), name, here)
    for name in columns.get("keep") or []:
        if name in new:
            raise ContractError(f"{where}, columns: keep: '{name}' is the name of a canonical column; rename it")
        new[name] = column(obs, name, f"{where}, columns: keep").to_numpy()
    return new, unit


def _names(index: pd.Index) -> pd.Index:
    """Ids as text; h5ad takes no index whose name is a number, as that of a table without header is."""
    return pd.Index(index.astype(str), name=index.name if isinstance(index.name, str) else None)


def _structures(
    source: pd.DataFrame,
    obs: pd.DataFrame,
    singles: set[str],
    columns: Mapping[str, Any],
    settings: Mapping[str, Any],
    data_folder: str | Path,
    where: str,
    log: Log,
) -> pd.DataFrame | None:
    """The structures of single perturbations from a column, a table or both; None where neither is given."""
    if "smiles" not in columns and not settings.get("structures"):
        return None
    # imported here because RDKit takes long to import and most datasets need none of it
    from trueshift.data.features.structures import column_smiles, make_structures, table_smiles

    given: dict[str, set[str]] = {}
    if "smiles" in columns:
        smiles = mapped(source, columns["smiles"], f"{where}, columns: smiles", missing=True)
        given = column_smiles(obs["perturbation"], smiles)
    if settings.get("structures"):
        file = ensure(settings["structures"], data_folder)
        for part, texts in table_smiles(file.path, singles).items():
            given[part] = given.get(part, set()) | texts
    return make_structures(given, singles, where, log)


def _say_targets(singles: set[str], genes: pd.Index, log: Log) -> None:
    lacking = sorted(part for part in singles if part.split("@")[0] not in genes)
    if lacking:
        log(f"{len(lacking)} of {len(singles)} targets are not among the genes: {', '.join(lacking[:5])}")
