"""From a source's own columns to the canonical form that all later stages read.

What it reads of a dataset's entry:

* ``kind``: counts, lognorm, profile or signature
* ``filter``: on source columns, before mapping; see :func:`trueshift.data.canonical.columns.kept`
* ``columns``: where the canonical columns come from. ``perturbation`` (``from``, ``control``: label or labels,
  ``separator``: what joins combinations, default ``+``, null for none, ``extract``), ``context``, ``batch`` (default
  one batch ``all``), ``dose`` (default ``1``; ``unit``), ``modality`` (default ``unknown``): a column name,
  ``{from, extract}`` (first group of a regular expression) or ``{value}``; ``control_id``, ``size_factor``,
  ``smiles`` (of drugs), ``gene_symbol`` (a column of var), ``keep`` (a list of source columns to carry along)
* ``structures``: a file, table of perturbation and smiles, instead of or beside the column
* ``features``: name → ``simulated``, ``morgan`` or ``descriptors`` (computed from structures), or a file; see
  :func:`trueshift.data.features.tables.load_features`
* ``targets_measured``, ``preselected_genes``: booleans
"""

import re
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
    KINDS,
    SCHEMA_VERSION,
    ContractError,
    check_canonical,
    component_doses,
    components,
)
from trueshift.data.canonical import checks
from trueshift.data.canonical.columns import column, kept, mapped, plain, text
from trueshift.data.download import Log, ensure
from trueshift.data.features.tables import load_features
from trueshift.data.options import check_keys, choices

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
NO_DOSE = ("-666", "-666.0")  # how LINCS writes that there is none


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
    if kind not in KINDS:
        raise ContractError(f"{where}: kind is {kind}, must be one of {', '.join(KINDS)}")
    columns = _column_settings(settings, where)

    keep = kept(raw.obs, settings.get("filter") or {}, where)
    if not keep.all():
        log(f"filter keeps {keep.sum()} of {len(keep)} cells")
    obs = raw.obs.loc[keep] if not keep.all() else raw.obs
    new = _canonical_obs(obs, columns, where, log)
    var = _canonical_var(raw.var, columns, where)
    if values.are_apart(raw):
        adata = values.part(raw, np.flatnonzero(keep), np.arange(raw.n_vars), new, var)
    else:
        adata = ad.AnnData(_matrix(raw.X, keep, kind), obs=new, var=var)

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
        "dose_unit": columns["dose"].get("unit", ""),
        "targets_measured": bool(settings.get("targets_measured", False)),
        "preselected_genes": bool(settings.get("preselected_genes", False)),
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


def _matrix(matrix: Any, keep: np.ndarray, kind: str) -> Any:
    """The kept rows as float32; not copied unless need be."""
    if kind not in values.DENSE:
        matrix = sparse.csr_matrix(matrix)
    elif sparse.issparse(matrix):
        matrix = matrix.toarray()
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
    if not full["perturbation"].get("control"):
        raise ContractError(f"{where}: columns: perturbation: control is not set; name the control label")
    return full


def _canonical_var(source: pd.DataFrame, columns: Mapping[str, Any], where: str) -> pd.DataFrame:
    ids = pd.Index(source.index.astype(str))
    names = ids
    if "gene_symbol" in columns:
        here = f"{where}, columns: gene_symbol"
        symbols = text(column(source, columns["gene_symbol"]["from"], here)).astype(object)
        names = pd.Index(symbols.where(symbols.notna(), ids.to_series(index=symbols.index)).astype(str))
    elif "gene_id" in source:
        return pd.DataFrame({"gene_id": source["gene_id"].astype(str).to_numpy()}, index=names)
    return pd.DataFrame({"gene_id": ids.to_numpy()}, index=names)


def _canonical_obs(obs: pd.DataFrame, columns: Mapping[str, Any], where: str, log: Log) -> pd.DataFrame:
    def labels(key: str, missing: bool = False) -> pd.Series:
        return mapped(obs, columns[key], f"{where}, columns: {key}", missing)

    new = pd.DataFrame(index=pd.Index(obs.index.astype(str)))
    source, dose = labels("perturbation"), labels("dose", missing=True)
    treatments = _treatments(source, dose, labels("modality"), columns, where, log)
    for key in ("perturbation", "modality", "dose"):
        new[key] = treatments[key].to_numpy()
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
    return new


def _treatments(
    labels: pd.Series, doses: pd.Series, modalities: pd.Series, columns: Mapping[str, Any], where: str, log: Log
) -> pd.DataFrame:
    """Canonical perturbation, dose and modality of every cell, worked out once per distinct combination of labels."""
    here = f"{where}, columns: perturbation"
    spec, dose_from = columns["perturbation"], columns["dose"].get("from", "dose")
    wanted = [spec["control"]] if isinstance(spec["control"], str) else [str(label) for label in spec["control"]]
    separator = spec.get("separator", "+")
    named = {x: [x] if x in wanted else _parts(x, separator, here) for x in labels.cat.categories}
    present = set(named) | {part for parts in named.values() for part in parts}
    for control in wanted:
        if control not in present:
            raise ContractError(f"{here}: no cell has the control label '{control}'; {choices(control, sorted(named))}")
    codes = pd.DataFrame({"label": labels.cat.codes, "dose": doses.cat.codes, "modality": modalities.cat.codes})
    group = codes.groupby(["label", "dose", "modality"], sort=False).ngroup().to_numpy()
    first = np.flatnonzero(~pd.Series(group).duplicated().to_numpy())

    rows: list[tuple[list[tuple[str, str]], str]] = []
    seen: dict[str, set[str]] = {}
    no_dose, lacking = 0, ""
    for cell in first:
        label, dose, modality = labels.iloc[cell], doses.iloc[cell], modalities.iloc[cell]
        parts = named[label]
        if all(part in wanted for part in parts):
            rows.append(([], modality))
            continue
        if pd.isna(dose) or dose in NO_DOSE:
            no_dose += int((group == group[cell]).sum())
            lacking = lacking or f"{labels.index[int(cell)]} ({label})"
            continue
        amounts = _amounts(dose, len(parts), columns["dose"].get("unit"), f"{where}, columns: dose", label)
        pairs = sorted((part, amount) for part, amount in zip(parts, amounts, strict=True) if part not in wanted)
        for part, _ in pairs:
            seen.setdefault(part, set()).add(modality)
        rows.append((pairs, modality))
    if no_dose:
        raise ContractError(
            f"{where}, columns: dose: source column '{dose_from}' has {no_dose} perturbed cells without a dose, "
            f"first {lacking}; leave them out with filter:, fill them in, or add the label to control:"
        )
    _check_names(seen, here)
    shared = {part for part, kinds in seen.items() if len(kinds) > 1}
    if shared:
        log(f"{len(shared)} labels occur under several modalities and get @modality: {', '.join(sorted(shared)[:5])}")
    renamed = {part: plain(part) for part in seen}
    changed = [part for part, new in renamed.items() if part != new]
    if changed:
        log(f"{len(changed)} labels hold '+' (it joins combinations), written as 'plus': {', '.join(changed[:5])}")

    def full(part: str, modality: str) -> str:
        return f"{renamed[part]}@{modality}" if part in shared else renamed[part]

    table = pd.DataFrame(
        {
            "perturbation": ["+".join(full(p, m) for p, _ in pairs) or CONTROL for pairs, m in rows],
            "dose": ["+".join(amount for _, amount in pairs) or "0" for pairs, _ in rows],
            "modality": [modality for _, modality in rows],
        }
    ).astype("category")
    return table.iloc[group]


def _parts(label: str, separator: str | None, where: str) -> list[str]:
    parts = [part.strip() for part in label.split(separator)] if separator else [label]
    if not all(parts) or any(part.count("(") != part.count(")") for part in parts):
        raise ContractError(
            f"{where}: label '{label}' does not split at '{separator}' into names; set separator: to what joins "
            "combinations in the source, or to null if it has none"
        )
    return parts


def _amounts(dose: str, count: int, unit: str | None, where: str, label: str) -> list[str]:
    """The doses of the components as number text, without their ``unit``; one number stands for all of them."""
    amounts = [dose] if count == 1 else component_doses(dose)
    if unit:
        amounts = [_without_unit(amount, unit) for amount in amounts]
    try:
        numbers = [float(amount) for amount in amounts]
    except ValueError:
        numbers = [np.nan]
    if not np.isfinite(numbers).all():
        known = f" in {unit}" if unit else ""
        raise ContractError(
            f"{where}: dose '{dose}' of '{label}' is not a number{known}; use extract: to take the number, "
            "or name its unit (unit:)"
        )
    if len(numbers) == 1:
        numbers = numbers * count
    if len(numbers) != count:
        raise ContractError(f"{where}: '{label}' has {count} components but dose '{dose}' has {len(numbers)}")
    return [f"{number:.12g}" for number in numbers]


def _without_unit(amount: str, unit: str) -> str:
    """``0.04 µM`` as ``0.04`` where the unit is uM; both micro signs, u and the case of letters are one."""
    written, wanted = (re.sub("[µμ]", "u", text).lower().strip() for text in (amount, unit))
    return written.removesuffix(wanted) if wanted else written


def _check_names(parts: Mapping[str, Any], where: str) -> None:
    for part in parts:
        if part == CONTROL:
            raise ContractError(f"{where}: '{CONTROL}' is a label but not declared as a control; add it to control:")
        if "@" in part:
            raise ContractError(f"{where}: label '{part}' holds '@', which marks modalities; rename it in the source")


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
        file = ensure(settings["structures"], data_folder, log)
        for part, texts in table_smiles(file.path, singles).items():
            given[part] = given.get(part, set()) | texts
    return make_structures(given, singles, where, log)


def _say_targets(singles: set[str], genes: pd.Index, log: Log) -> None:
    lacking = sorted(part for part in singles if part.split("@")[0] not in genes)
    if lacking:
        log(f"{len(lacking)} of {len(singles)} targets are not among the genes: {', '.join(lacking[:5])}")
