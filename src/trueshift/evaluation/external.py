"""Predictions made elsewhere: any h5ad of predicted cells or profiles becomes a prediction that scoring reads.

Every difference from what was asked is either mended and noted, or refused by name: genes, conditions, scale, controls.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from trueshift.contract import (
    CONDITION,
    CONTROL,
    ContractError,
    asked,
    check_prediction,
    component_doses,
    components,
    dense,
    make_prediction,
)
from trueshift.evaluation.scale import check_scale

DEFAULTS: dict[str, Any] = {"columns": {}, "control": CONTROL, "genes": None, "layer": None}
COLUMNS = (*CONDITION, "fold")
BLOCK = 1 << 25  # values of the file held in memory at once, 256 MB of float64


def read_external(path: str | Path) -> ad.AnnData:
    """Opens an h5ad that others wrote; X stays on disk. No other format is read, pickles least of all."""
    if not Path(path).exists():
        raise ContractError(f"{path}: no such file")
    if not h5py.is_hdf5(path):
        raise ContractError(f"{path}: is no h5ad (not HDF5); save the predictions with AnnData.write_h5ad")
    try:
        with h5py.File(path, "r") as file:
            lacking = [name for name in ("obs", "var") if name not in file]
        if not lacking:
            return ad.read_h5ad(path, backed="r")
    except (OSError, KeyError) as error:
        raise ContractError(
            f"{path}: cannot be read as h5ad ({error}); write it again with AnnData.write_h5ad"
        ) from error
    raise ContractError(f"{path}: is HDF5 but no h5ad (no {' and no '.join(lacking)}); save it with AnnData.write_h5ad")


def adopt(
    external: ad.AnnData, query: ad.AnnData, settings: Mapping[str, Any], fold: str, file: str
) -> tuple[ad.AnnData, list[str]]:
    """Turns predicted cells or profiles of any origin into a prediction, and says what was changed.

    ``external`` may have its X on disk. ``settings``: ``columns`` maps context, perturbation, dose and fold to columns
    of its obs, to ``{"value": constant}`` or to null (there is none); ``control`` is the label or labels of control
    rows; ``genes`` the var column with gene names (null: the index); ``layer`` where the values are (null: X). Without
    a context column all rows are of the one context asked, without a dose column of the one dose asked; with a fold
    column, only rows of ``fold`` count. A condition's rows are its cells; where every condition has one row, these are
    profiles. A label is the set of its components (``B+A`` is ``A+B``), without those that are controls (``A+ctrl``).

    Returns the prediction (:func:`trueshift.contract.make_prediction`: genes and conditions as asked) and notes, one
    sentence for each thing mended. Raises :class:`ContractError` naming ``file``, the genes, conditions or scale that
    do not fit, and the remedy: genes or conditions that are missing, one row for some conditions and several for
    others, values that are not finite, counts, values without logarithm or of another base or depth, effects instead
    of expression, shuffled genes. What the values should look like is read off the query's input controls.
    """
    _check_keys(settings, DEFAULTS, file)
    chosen = {**DEFAULTS, **settings}
    notes: list[str] = []
    matrix = _matrix(external, chosen["layer"], file)
    columns = _gene_columns(external.var, query, chosen["genes"], file, notes)
    codes = _condition_codes(external.obs, asked(query), chosen, fold, file, notes)
    rows = np.flatnonzero(codes >= 0)
    order = np.argsort(codes[rows], kind="stable")
    codes = codes[rows][order]
    profiles = _are_profiles(codes, asked(query), file, notes)
    values = _read(matrix, rows, columns, np.argsort(order))
    check_scale(values, codes, query, file, notes)
    prediction = make_prediction(query, values, None if profiles else codes)
    check_prediction(prediction, query, file)
    return prediction, notes


# --- words --------------------------------------------------------------------------------------------


def _near(name: str, names: Iterable[str]) -> str:
    """The nearest of ``names`` if one is near, and the first few that there are."""
    known = sorted(set(names))
    close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    more = f", … {len(known)} in all" if len(known) > 5 else ""
    return (f"did you mean {close[0]}? " if close else "") + f"there are: {', '.join(known[:5]) or 'none'}{more}"


def _check_keys(given: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise ContractError(f"{where}: no setting {key}; {_near(key, known)}")


def _text(value: object) -> str:
    """A label as text; whole numbers lose their ``.0`` so that 1, 1.0 and "1" are one label."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


# --- genes --------------------------------------------------------------------------------------------


def _plain(gene: str) -> str:
    """A gene name without what naming schemes differ by: case, version (``.12``), the choice of dash."""
    return re.sub(r"[-_.]", "-", re.sub(r"\.\d+$", "", gene.upper()))


def _gene_columns(var: pd.DataFrame, query: ad.AnnData, column: str | None, file: str, notes: list[str]) -> np.ndarray:
    """Where the genes asked stand in the file, shape (G,)."""
    if column is not None and column not in var:
        raise ContractError(f"{file}: genes: var has no column {column}; {_near(column, map(str, var.columns))}")
    names = pd.Index(var.index if column is None else var[column]).astype(str)
    genes = query.var_names
    found = names[names.isin(genes)]
    if found.has_duplicates:
        twice = found[found.duplicated()].unique()
        raise ContractError(
            f"{file}: {len(twice)} genes occur more than once, first {twice[0]}; keep one column of values for each"
        )
    missing = genes[~genes.isin(names)]
    if len(missing):
        raise ContractError(
            f"{file}: {len(missing)} of {len(genes)} genes asked are missing, first {', '.join(missing[:3])}"
            f"{_other_names(missing, names, var, query)}; predict every gene of query.h5ad: for one that your model "
            "does not know, say what you claim for it, for instance the mean of the input controls (no change)"
        )
    extra = len(names) - len(found)
    if extra:
        notes.append(f"{extra} genes were not asked for and are left out, first {names[~names.isin(genes)][0]}")
    if found.tolist() != genes.tolist():
        notes.append("genes are in another order than asked: matched by name")
    return names.get_indexer_for(genes)


def _other_names(missing: pd.Index, names: pd.Index, var: pd.DataFrame, query: ad.AnnData) -> str:
    """Why genes seem to be missing, if they stand in the file under other names."""
    for name in [None, *var.columns]:
        n = missing.isin(pd.Index(var.index if name is None else var[name]).astype(str)).sum()
        if n > len(missing) / 2:
            where = "the index of its var" if name is None else f"its var column {name}"
            return f"; {where} holds {n} of them: {'leave genes: out' if name is None else f'set genes: {name}'}"
    plain = {_plain(name): name for name in names}
    near = [f"{gene} as {plain[_plain(gene)]}" for gene in missing if _plain(gene) in plain]
    if near:
        return f"; {len(near)} of them stand there under another spelling ({', '.join(near[:3])}): rename them"
    if "gene_id" in query.var and query.var["gene_id"].astype(str).isin(names).all():
        return f"; it names genes by the ids of query.h5ad's var column gene_id, such as {names[0]}: rename them"
    return f"; its genes are such as {', '.join(names[:3])}"


# --- conditions ---------------------------------------------------------------------------------------

Key = tuple[str, tuple[tuple[str, str], ...]]  # context, and (component, dose) sorted


def _condition_codes(
    obs: pd.DataFrame, table: pd.DataFrame, chosen: Mapping[str, Any], fold: str, file: str, notes: list[str]
) -> np.ndarray:
    """The row of ``table`` (conditions asked) that each row of the file predicts, shape (N,), −1 for none."""
    table = table[CONDITION].astype(str)
    names = chosen["control"] if isinstance(chosen["control"], list | tuple) else [chosen["control"]]
    controls = {CONTROL, *map(_text, names)}
    declared = sorted({part for label in table["perturbation"] for part in components(label)} & controls)
    if declared:
        raise ContractError(f"{file}: control: {declared[0]} is asked for as a perturbation; name control labels only")
    labels = _columns(obs, table, chosen["columns"], file)
    with_dose = "dose" in labels
    given = labels.drop_duplicates().reset_index(drop=True)
    group = pd.MultiIndex.from_frame(given).get_indexer(pd.MultiIndex.from_frame(labels))
    size = np.bincount(group, minlength=len(given))
    keys, wanted_keys = (_keys(part, with_dose, controls) for part in (given, table))
    wanted = {key: i for i, key in enumerate(wanted_keys)}
    here = _of_fold(given, fold, file)
    code = np.array([wanted.get(key, -1) if inside else -1 for key, inside in zip(keys, here, strict=True)])

    missing = np.setdiff1d(np.arange(len(table)), code)
    if len(missing):
        first = table.iloc[missing[0]]
        why = _why_missing(first, wanted_keys[missing[0]], given, keys, here)
        raise ContractError(
            f"{file}: {len(missing)} of {len(table)} conditions asked are missing, first {' | '.join(first)}; {why}; "
            "predict them too, or correct the labels or columns:"
        )
    control = np.array([not key[1] for key in keys])
    if control.any():
        notes.append(f"{size[control].sum()} control rows are left out: controls are ours, of query.h5ad")
    elif chosen["control"] != CONTROL:
        notes.append(f"no row has a control label ({', '.join(sorted(controls))}); none is needed")
    extra = here & (code < 0) & ~control
    if extra.any():
        example = " | ".join(given.loc[extra, [name for name in CONDITION if name in given]].iloc[0])
        count = len({keys[i] for i in np.flatnonzero(extra)})
        notes.append(
            f"{size[extra].sum()} rows are of {count} conditions that this fold does not ask and are left out, "
            f"first {example}"
        )
    away = ~here & ~control
    if away.any():
        notes.append(f"{size[away].sum()} rows of other folds are left out")
    as_asked = table["perturbation"].to_numpy()[code]
    other = (code >= 0) & (given["perturbation"].to_numpy() != as_asked)
    if other.any():
        i = np.flatnonzero(other)[0]
        notes.append(
            f"{other.sum()} labels are read by their components, first {given['perturbation'][i]} as {as_asked[i]}"
        )
    return code[group]


def _columns(obs: pd.DataFrame, table: pd.DataFrame, given: Mapping[str, Any], file: str) -> pd.DataFrame:
    """Context, perturbation and, where there are such, dose and fold of every row, as text."""
    _check_keys(given, COLUMNS, f"{file}: columns")
    labels: dict[str, Any] = {}
    for name in COLUMNS:
        source = given.get(name, name)
        if isinstance(source, Mapping) and set(source) == {"value"}:
            labels[name] = _text(source["value"])
        elif isinstance(source, str) and source in obs:
            column = obs[source].astype("category")
            labels[name] = np.array([_text(v) for v in column.cat.categories] + [""], dtype=object)[column.cat.codes]
        elif source is not None and name in given:
            near = _near(str(source), map(str, obs.columns))
            raise ContractError(f"{file}: columns: {name}: obs has no column {source}; {near}")
    if "perturbation" not in labels:
        near = _near("perturbation", map(str, obs.columns))
        raise ContractError(f"{file}: obs has no column perturbation; name it in columns: perturbation ({near})")
    contexts = table["context"].unique()
    if "context" not in labels:
        if len(contexts) > 1:
            raise ContractError(
                f"{file}: obs has no column context, but {len(contexts)} are asked ({', '.join(contexts[:3])}); "
                'name it in columns: context, or give a constant, {"value": …}'
            )
        labels["context"] = contexts[0]
    several = table[table.duplicated(["context", "perturbation"], keep=False)]
    if "dose" not in labels and len(several):
        context, label = several[["context", "perturbation"]].iloc[0]
        doses = several["dose"][(several["context"] == context) & (several["perturbation"] == label)]
        raise ContractError(
            f"{file}: obs has no column dose, but {context} | {label} is asked at {', '.join(doses)}; "
            "name it in columns: dose"
        )
    return pd.DataFrame(labels, index=obs.index)[[name for name in COLUMNS if name in labels]]


def _keys(table: pd.DataFrame, with_dose: bool, controls: set[str]) -> list[Key]:
    doses = table["dose"].tolist() if with_dose else [None] * len(table)
    rows = zip(table["context"].tolist(), table["perturbation"].tolist(), doses, strict=True)
    return [_key(*row, controls) for row in rows]


def _key(context: str, label: str, dose: str | None, controls: set[str]) -> Key:
    """What identifies a condition: ``A+B`` at 1+2 is ``B+A`` at 2+1; controls have no components."""
    parts = [] if label in controls else [part.strip() for part in label.split("+")]
    amounts = [""] * len(parts) if dose is None else component_doses(dose)
    if len(amounts) != len(parts):  # one dose stands for all; any other number matches nothing
        amounts = [dose or ""] * len(parts)
    pairs = zip(parts, map(_number, amounts), strict=True)
    return context, tuple(sorted(pair for pair in pairs if pair[0] not in controls))


def _number(amount: str) -> str:
    """A dose as the data write it: 1, 1.0 and 1e0 are one."""
    try:
        return f"{float(amount):.12g}"
    except ValueError:
        return amount  # a word matches no dose, and the message shows it


def _of_fold(given: pd.DataFrame, fold: str, file: str) -> np.ndarray:
    if "fold" not in given:
        return np.ones(len(given), dtype=bool)
    here = (given["fold"] == fold).to_numpy()
    if not here.any():
        raise ContractError(
            f"{file}: its fold column has no fold {fold} ({_near(fold, given['fold'])}); predict it, or set columns: "
            "fold: null if that column means something else"
        )
    return here


def _why_missing(first: pd.Series, key: Key, given: pd.DataFrame, keys: list[Key], here: np.ndarray) -> str:
    """The nearest thing to a missing condition that the file holds."""
    if key in keys:
        return f"the file has it in fold {given['fold'][keys.index(key)]} only"
    label, parts = first["perturbation"], [part for part, _ in key[1]]
    same = given[here & np.array([[part for part, _ in other[1]] == parts for other in keys], dtype=bool)]
    there = same[same["context"] == first["context"]]
    if len(there):
        return f"the file has it at dose {', '.join(there['dose'].unique()[:3])}"
    if len(same):
        return f"the file has {label} in context {', '.join(same['context'].unique()[:3])} only"
    return (
        f"no label of the file is {label} (combinations are written A+B): {_near(label, given['perturbation'][here])}"
    )


def _are_profiles(codes: np.ndarray, table: pd.DataFrame, file: str, notes: list[str]) -> bool:
    """Whether the file holds one profile per condition; some of both is refused."""
    size = np.bincount(codes)
    if (size == 1).all():
        notes.append("one row per condition: these are profiles")
        return True
    if (size == 1).any():
        name = [" | ".join(table[CONDITION].astype(str).to_numpy()[i]) for i in (size.argmin(), size.argmax())]
        raise ContractError(
            f"{file}: {name[0]} has one row but {name[1]} has {size.max()}; give every condition one profile, or every "
            "condition two cells or more"
        )
    notes.append(f"{size.min()} to {size.max()} rows per condition: these are cells")
    return False


# --- values -------------------------------------------------------------------------------------------


def _matrix(external: ad.AnnData, layer: str | None, file: str) -> Any:
    if layer is not None and layer not in external.layers:
        raise ContractError(f"{file}: no layer {layer}; {_near(layer, external.layers)}")
    matrix = external.X if layer is None else external.layers[layer]
    if matrix is None:
        raise ContractError(f"{file}: X is empty; name the layer with the values ({_near('', external.layers)})")
    if np.dtype(matrix.dtype).kind not in "fiub":
        raise ContractError(f"{file}: values are of type {matrix.dtype}; save them as float32")
    if getattr(matrix, "format", "") == "csc":  # rows are read in blocks
        matrix = (matrix.to_memory() if hasattr(matrix, "to_memory") else matrix).tocsr()
    return matrix


def _read(matrix: Any, rows: np.ndarray, columns: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Values of ascending ``rows`` and of ``columns``, float32; row i goes to ``place[i]``. Reads block by block."""
    values = np.empty((len(rows), len(columns)), dtype=np.float32)
    step = max(1, BLOCK // matrix.shape[1])
    for start in range(0, matrix.shape[0], step):
        first, last = np.searchsorted(rows, (start, start + step))
        if last > first:
            part = matrix[start : start + step]
            values[place[first:last]] = dense(part[rows[first:last] - start][:, columns])
    return values
