"""The artefacts that the wings exchange: what is in each file, how it is read, written and checked.

Every other module of the library knows its neighbours only through this one. All files are written
atomically (a temporary sibling, then a rename), so a reader never meets half a file; beside each stands its
checksum, a hidden file, so a reader never takes what a disk or a copy has damaged.
"""

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift import values
from trueshift.files import ContractError as ContractError
from trueshift.files import atomic as atomic
from trueshift.files import atomic_folder as atomic_folder
from trueshift.files import check_intact as check_intact
from trueshift.files import discard as discard
from trueshift.files import disk_is_full as disk_is_full
from trueshift.kinds import KINDS, Kind

SCHEMA_VERSION = 1
CONTROL = "control"
ROLES = ("train", "val", "test", "control_input", "control_reference")
CANONICAL_OBS = ("perturbation", "modality", "context", "batch", "dose", "is_control")
CONDITION = ["context", "perturbation", "dose"]


# --- perturbation names -------------------------------------------------------------------------------


def components(perturbation: str) -> list[str]:
    """The single perturbations of a label: ``"A+B"`` gives ``["A", "B"]``, a control gives none."""
    return [] if perturbation == CONTROL else perturbation.split("+")


def component_doses(dose: str) -> list[str]:
    """The dose of each component: ``"1+1e+06"`` gives ``["1", "1e+06"]``."""
    return re.split(r"(?<![eE])\+", dose)


def target_gene(component: str) -> str:
    """The gene a component is named after: ``"KLF1@CRISPRa"`` gives ``"KLF1"``."""
    return component.split("@")[0]


def condition_codes(obs: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Groups cells by condition (context × perturbation × dose).

    Returns the sorted table of conditions, shape (C, 3), and for every row of ``obs`` its row in that table.
    """
    codes, labels = zip(*(pd.factorize(obs[column].astype(str), sort=True) for column in CONDITION), strict=True)
    sizes = [max(1, len(names)) for names in labels]
    found, row_of = np.unique(np.ravel_multi_index(codes, sizes), return_inverse=True)
    chosen = zip(CONDITION, labels, np.unravel_index(found, sizes), strict=True)
    return pd.DataFrame({column: np.asarray(names, object)[code] for column, names, code in chosen}), row_of


# --- writing and reading ------------------------------------------------------------------------------


def write_h5ad(adata: ad.AnnData, path: str | Path) -> None:
    """Writes an AnnData atomically; large dense values apart (:mod:`trueshift.values`), and only once."""
    with atomic(path) as temporary, values.beside(adata, Path(path), temporary) as table:
        table.write_h5ad(temporary)


def read_h5ad(path: str | Path) -> ad.AnnData:
    """Reads an AnnData into memory; a missing or damaged file is an error that names it."""
    adata = open_h5ad(path)
    return values.in_memory(adata) if values.are_apart(adata) else adata


def open_h5ad(path: str | Path) -> ad.AnnData:
    """Reads an AnnData but for values that are apart, for which :func:`trueshift.values.blocks` is; X is None then."""
    check_intact(path)
    try:
        adata = ad.read_h5ad(path)
        values.find(adata, path)
        return adata
    except (OSError, KeyError) as error:
        raise ContractError(f"{path}: cannot be read as h5ad ({error}); delete it so that it is made again") from error


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Writes a table without its index, as CSV or parquet by the ending of ``path``."""
    with atomic(path) as temporary:
        if Path(path).suffix == ".parquet":
            numbers = table.select_dtypes(["float"]).columns  # rarely twice the same: a dictionary only costs time
            table.to_parquet(temporary, index=False, use_dictionary=[name for name in table if name not in numbers])
        else:
            table.to_csv(temporary, index=False)


def read_table(path: str | Path) -> pd.DataFrame:
    """Reads what :func:`write_table` wrote; empty fields of a CSV become NaN."""
    check_intact(path)
    return pd.read_parquet(path) if Path(path).suffix == ".parquet" else pd.read_csv(path)


def write_json(value: Any, path: str | Path) -> None:
    """Writes JSON atomically, indented, keys in the order given."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads JSON."""
    check_intact(path)
    return json.loads(Path(path).read_text())


# --- canonical data -----------------------------------------------------------------------------------


def metadata(adata: ad.AnnData) -> dict[str, Any]:
    """The ``uns["trueshift"]`` mapping: schema_version, kind, dataset, provenance and what stages add."""
    if "trueshift" not in adata.uns:
        raise ContractError("the file has no uns['trueshift']: it was not made by the import stage")
    return adata.uns["trueshift"]


def kind_of(adata: ad.AnnData) -> Kind:
    """The row of :data:`trueshift.kinds.KINDS` that data are of; a name without a row is a :class:`ContractError`."""
    name = metadata(adata)["kind"]
    if name not in KINDS:
        raise ContractError(f"the file is of kind {name}, which must be one of {', '.join(KINDS)}; import it again")
    return KINDS[name]


def dense(matrix: Any) -> np.ndarray:
    """A float32 array of what AnnData holds in X, be it sparse or dense."""
    return np.asarray(matrix.toarray() if sparse.issparse(matrix) else matrix, dtype=np.float32)


def column_means(matrix: Any, rows: np.ndarray | None = None) -> np.ndarray:
    """Means over rows, in float64, shape (G,); sparse input stays sparse."""
    part = matrix if rows is None else matrix[rows]
    if sparse.issparse(part):  # SciPy's own mean of float32 rounds to float32
        return np.ones(part.shape[0]) @ part / part.shape[0]
    return np.asarray(part.mean(axis=0, dtype=np.float64)).ravel()


def check_canonical(adata: ad.AnnData, file: str | Path) -> None:
    """Raises :class:`ContractError` unless ``adata`` is in canonical form.

    obs has ``perturbation`` (controls are ``control``, combinations ``A+B``), ``modality``, ``context``,
    ``batch``, ``dose`` (one number per component, joined by ``+``) and ``is_control``; ids are unique; X is finite.
    """
    missing = [column for column in CANONICAL_OBS if column not in adata.obs]
    if missing:
        raise ContractError(f"{file}: obs lacks {', '.join(missing)}; map them in config/datasets.yaml, columns:")
    for what, names in (("cell", adata.obs_names), ("gene", adata.var_names)):
        if not names.is_unique:
            twice = names[names.duplicated()].unique()[:3].tolist()
            raise ContractError(f"{file}: {what} ids occur twice ({', '.join(map(str, twice))}); make them unique")
    if not values.are_apart(adata):  # these were checked on their way into the file
        stored = adata.X.data if sparse.issparse(adata.X) else np.asarray(adata.X)
        if not values.all_finite(stored):
            gene = _first_gene(adata, ~np.isfinite(dense(adata.X)))
            raise ContractError(f"{file}: X holds NaN or infinite values, first in gene {gene}; clean the source")
        if kind_of(adata).raw_counts and stored.size and stored.min() < 0:
            gene = _first_gene(adata, dense(adata.X) < 0)
            raise ContractError(f"{file}: counts are negative, first in gene {gene}; is the source scaled?")
    if not adata.obs["is_control"].any():
        raise ContractError(f"{file}: no control cells; say which label is the control in columns: perturbation:")


def _first_gene(adata: ad.AnnData, mask: np.ndarray) -> str:
    return str(adata.var_names[np.flatnonzero(mask.any(axis=0))[0]])


# --- pairs --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Sets of cells of one (context, perturbation, dose, batch) with matched controls, as rows of ``train.h5ad``.

    ``perturbed`` and ``control`` are int32 arrays of shape (N, S). The text arrays, shape (N,), describe each set:
    ``role`` is train or val, ``control_scope`` says whether its controls share the ``batch`` or only the ``context``.
    """

    perturbed: np.ndarray
    control: np.ndarray
    context: np.ndarray
    perturbation: np.ndarray
    batch: np.ndarray
    role: np.ndarray
    control_scope: np.ndarray


def write_pairs(pairs: Pairs, path: str | Path) -> None:
    """Writes pairs as an NPZ without pickled parts."""
    with atomic(path) as temporary:
        np.savez(temporary, **{field.name: getattr(pairs, field.name) for field in fields(pairs)})


def read_pairs(path: str | Path) -> Pairs:
    """Reads what :func:`write_pairs` wrote."""
    check_intact(path)
    with np.load(path, allow_pickle=False) as file:
        return Pairs(**{field.name: file[field.name] for field in fields(Pairs)})


# --- query and prediction -----------------------------------------------------------------------------


def asked(query: ad.AnnData) -> pd.DataFrame:
    """The conditions a query asks for: context, perturbation, dose, modality, n_cells, n_seen; one row each.

    Of paired profiles also ``control_id``, the controls that the profiles under test are paired with (joined by a tab),
    and ``context_seen``, whether training has perturbed profiles of the context.
    """
    table: pd.DataFrame = query.uns["conditions"]
    return table.reset_index(drop=True)


def input_controls(query: ad.AnnData) -> list[np.ndarray]:
    """For each asked condition the rows of the query that are its input controls, ascending.

    They are the controls of its context; of paired profiles those alone that the profiles under test are paired with
    (column ``control_id`` of the conditions, ids joined by a tab).
    """
    table = asked(query)
    context = query.obs["context"].astype(str).to_numpy()
    rows_in = {name: np.flatnonzero(context == name) for name in np.unique(context)}
    lost = sorted(set(table["context"].astype(str)) - set(rows_in))
    if lost:
        raise ContractError(f"query: no input control cells in context {lost[0]}")
    if "control_id" not in table:
        return [rows_in[name] for name in table["context"].astype(str)]
    row_of = {name: row for row, name in enumerate(query.obs_names)}
    chosen = []
    for names in table["control_id"].astype(str).str.split("\t"):
        absent = [name for name in names if name not in row_of]
        if absent:
            raise ContractError(f"query: the control {absent[0]} of a condition asked is not there; make it again")
        chosen.append(np.sort(np.array([row_of[name] for name in names])))
    return chosen


def make_prediction(query: ad.AnnData, values: np.ndarray, rows: np.ndarray | None = None) -> ad.AnnData:
    """Wraps predicted expression in the form that scoring reads.

    Without ``rows``, ``values`` is one profile per asked condition, shape (C, G), in the order asked. With ``rows``,
    ``values`` holds predicted cells, shape (N, G), and ``rows`` gives the asked condition of each, ascending.
    """
    table = asked(query)
    output = "profile" if rows is None else "cells"
    chosen = np.arange(len(table)) if rows is None else np.asarray(rows)
    obs = table.loc[chosen, CONDITION].astype(str)
    obs.index = pd.Index([f"{output}{i}" for i in range(len(chosen))])
    return ad.AnnData(
        np.asarray(values, dtype=np.float32),
        obs=obs,
        var=pd.DataFrame(index=query.var_names),
        uns={"trueshift": {"schema_version": SCHEMA_VERSION, "output": output}},
    )


def unanswered(prediction: ad.AnnData) -> pd.DataFrame:
    """The conditions that a prediction leaves out, and why: context, perturbation, dose, reason; most often none."""
    table = prediction.uns.get("unanswered")
    if table is None:
        return pd.DataFrame(columns=[*CONDITION, "reason"], dtype=str)
    return table.astype(str).reset_index(drop=True)


def check_prediction(prediction: ad.AnnData, query: ad.AnnData, file: str | Path) -> None:
    """Raises :class:`ContractError` unless genes and conditions are exactly those asked, in the order asked.

    Conditions that the prediction declares to be left unanswered (:func:`unanswered`) are not missing.
    """
    _check_names(prediction.var_names.tolist(), query.var_names.tolist(), "genes", file)
    wanted = [" | ".join(row) for row in asked(query)[CONDITION].astype(str).itertuples(index=False)]
    left = {" | ".join(row) for row in unanswered(prediction)[CONDITION].itertuples(index=False)}
    wanted = [name for name in wanted if name not in left]
    keys = prediction.obs[CONDITION].astype(str)
    rows = keys[CONDITION[0]].str.cat(keys[CONDITION[1:]], sep=" | ")
    if metadata(prediction)["output"] == "profile":
        if rows.duplicated().any():
            raise ContractError(f"{file}: condition {rows[rows.duplicated()].iloc[0]} has two profiles; give one each")
        given = rows.tolist()
    else:
        given = rows[rows != rows.shift()].tolist()  # blocks of cells, one block a condition
    _check_names(given, wanted, "conditions", file)
    if not values.all_finite(dense(prediction.X)):
        raise ContractError(f"{file}: predicted values are NaN or infinite; the model diverged or divides by zero")


def _check_names(given: list[str], wanted: list[str], what: str, file: str | Path) -> None:
    missing, extra = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if missing:
        raise ContractError(f"{file}: {len(missing)} {what} asked for are missing, first {missing[0]}")
    if extra:
        raise ContractError(f"{file}: {len(extra)} {what} were not asked for, first {extra[0]}; remove them")
    if given != wanted:
        first = next((g for g, w in zip(given, wanted, strict=False) if g != w), given[-1])
        raise ContractError(f"{file}: {what} are not in the order asked, first at {first}; sort them as in the query")
