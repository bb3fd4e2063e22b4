"""Who trains and who is tested: one role for every cell, and the proof that nothing held out is in training.

Unseen perturbations and combinations are held out as in GEARS (Roohani et al. 2024, Nature Biotechnology 42:927). An
underrepresented context, of whose perturbations a share α stays in training, and a context without any perturbed
training cell are those of State (Adduri et al. 2025, bioRxiv 2025.06.26.661135). The controls of contexts under test
are halved: one half is input to models, the other is the reference of the truth, so that no control is on both sides
of a score.
"""

import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trueshift.contract import ROLES, ContractError, components
from trueshift.data.options import did_you_mean, in_range, options
from trueshift.data.roles import Cells, among, roles_of, sorted_components

DEFAULTS: dict[str, Any] = {
    "type": None,
    "k": None,
    "folds": None,
    "alpha": 0.3,
    "validation": 0.1,
    "seed": 0,
    "cluster": None,
    "asks": None,
}
# What a split type demands of a model; the promise that check_split verifies.
ASKS = {
    "kfold_cells": "seen",
    "unseen_perturbation": "new_perturbation",
    "unseen_combination": "new_combination",
    "underrepresented_context": "partial_context",
    "zero_shot_context": "new_context",
    "file": None,
}
WITH_K = ("kfold_cells", "unseen_perturbation", "unseen_combination")
CLUSTERS = ("perturbation", "context", "batch", "dose", "modality")
# One stream of random numbers per purpose, so that changing one setting leaves the others' draws alone.
FOLDS, KEPT, HALVES, VALIDATION = range(4)


def asks(settings: Mapping[str, Any]) -> str:
    """What the split demands: seen, partial_context, new_context, new_perturbation or new_combination."""
    chosen = _chosen(settings)
    return ASKS[chosen["type"]] or chosen["asks"] or "seen"


def held_out_unit(settings: Mapping[str, Any]) -> str:
    """The obs column whose values are the units that the split holds out: the clusters of its intervals."""
    chosen = _chosen(settings)
    default = "context" if asks(settings) == "new_context" else "perturbation"
    cluster = chosen["cluster"] or default
    if cluster not in CLUSTERS:
        raise ContractError(f"split: cluster: no column {cluster}{did_you_mean(cluster, CLUSTERS)}")
    return cluster


def _chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
    chosen = options(settings, DEFAULTS, "split")
    if chosen["type"] not in ASKS:
        raise ContractError(f"split: no type {chosen['type']}{did_you_mean(chosen['type'], ASKS)}")
    promise = chosen["asks"]
    if promise is not None and (chosen["type"] != "file" or promise not in ASKS.values()):
        allowed = sorted(filter(None, ASKS.values()))
        raise ContractError(f"split: asks: {promise} is for type file and one of {', '.join(allowed)}")
    # Half at most: then a condition of two or more cells always keeps one in training.
    in_range(chosen["validation"], 0, 0.5, "split: validation (0 declares that there is none)")
    return chosen


# --- making -------------------------------------------------------------------------------------------


def make_split(obs: pd.DataFrame, settings: Mapping[str, Any], fold: str) -> pd.DataFrame:
    """The roles of all cells in one fold: columns cell and role, in the order of ``obs``.

    ``settings`` is the split's entry: type, then k (folds are named 1 to k) or folds (a mapping of names), and
    validation, seed, alpha, cluster, asks. The same seed gives the same roles whatever the order of the rows, and the
    same halves of the controls in every fold. The result has passed :func:`check_split`.
    """
    chosen = _chosen(settings)
    fold = _known_fold(chosen, str(fold))
    cells = Cells(obs)
    if chosen["type"] == "file":
        roles = _roles_from_file(cells, Path(chosen["folds"][fold]))
    else:
        roles = np.where(cells.control, "", "train").astype(object)
        roles[_TESTED[chosen["type"]](cells, chosen, fold)] = "test"
        _draw_validation(roles, cells, chosen, fold)
    open_controls = cells.control & (roles == "")
    roles[open_controls] = _control_roles(roles, cells, chosen["seed"])[open_controls]
    split = pd.DataFrame({"cell": obs.index.astype(str), "role": roles.astype(str)})
    check_split(split, obs, settings)
    return split


def _known_fold(chosen: dict[str, Any], fold: str) -> str:
    name, folds, k = chosen["type"], chosen["folds"], chosen["k"]
    if folds is not None and k is not None:
        raise ContractError(f"split: {name} has both k and folds; give one")
    if folds is None and (name not in WITH_K or k is None):
        raise ContractError(
            f"split: {name} needs {'k or ' if name in WITH_K else ''}folds: {{name: what it holds out}}"
        )
    if name == "kfold_cells" and folds is not None:
        raise ContractError("split: kfold_cells takes k, not folds; use type: file for folds of your own")
    if k is not None:
        in_range(k, 2, 1000, "split: k")
    known = [str(i + 1) for i in range(int(k))] if folds is None else [str(key) for key in folds]
    if fold not in known:
        raise ContractError(f"split: no fold {fold}{did_you_mean(fold, known)}")
    if folds is not None:
        chosen["folds"] = {str(key): value for key, value in folds.items()}
    return fold


def _kfold_cells(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
    """Deals the shuffled cells of each condition to the folds in turn, one condition after the other."""
    rows = np.flatnonzero(cells.perturbed)
    draws = cells.random(rows, chosen["seed"], FOLDS)
    rows = rows[np.lexsort((draws, cells.condition[rows]))]
    tested = np.zeros(len(cells.names), dtype=bool)
    tested[rows[int(fold) - 1 :: int(chosen["k"])]] = True
    return tested


def _dealt(units: list[Any], chosen: dict[str, Any], fold: str, what: str) -> list[Any]:
    """The units of one of k folds of the shuffled units."""
    k = int(chosen["k"])
    if len(units) < k:
        raise ContractError(f"split: {k} folds of {len(units)} {what}; lower k")
    order = np.random.default_rng([chosen["seed"], FOLDS]).permutation(len(units))
    return [units[i] for i in order[int(fold) - 1 :: k]]


def _named(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list | tuple) else [str(value)]


def _unseen_perturbation(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
    """Every label that holds a held-out component, combinations included: one would show what the other hides."""
    single = sorted({part for label in cells.labels for part in components(label)})
    if chosen["folds"] is None:
        held = _dealt(single, chosen, fold, "perturbations")
    else:
        held = _named(chosen["folds"][fold])
        for name in held:
            if name not in single:
                raise ContractError(f"split: fold {fold}: no single perturbation {name}{did_you_mean(name, single)}")
    return cells.with_label({label for label in cells.labels if set(components(label)) & set(held)})


def _unseen_combination(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
    """Whole combinations, in whatever order their components are written; singles and other combinations train."""
    pairs = sorted({sorted_components(label) for label in cells.labels if len(sorted_components(label)) > 1})
    if not pairs:
        raise ContractError("split: unseen_combination, but the data hold no combination (A+B); use another type")
    if chosen["folds"] is None:
        held = _dealt(pairs, chosen, fold, "combinations")
    else:
        held = [sorted_components(name) for name in _named(chosen["folds"][fold])]
        for parts in held:
            if parts not in pairs:
                near = did_you_mean("+".join(parts), ["+".join(pair) for pair in pairs])
                raise ContractError(f"split: fold {fold}: no combination {'+'.join(parts)}{near}")
    return cells.with_label({label for label in cells.labels if sorted_components(label) in set(held)})


def _perturbed_in(cells: Cells, context: str, fold: str) -> np.ndarray:
    there = cells.context == context
    if not there.any():
        raise ContractError(f"split: fold {fold}: no context {context}{did_you_mean(context, set(cells.context))}")
    if not (there & cells.perturbed).any():
        raise ContractError(f"split: fold {fold}: context {context} has no perturbed cells to test on")
    return there & cells.perturbed


def _underrepresented_context(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
    """All but a share α of one context's perturbations."""
    in_range(chosen["alpha"], 0, 1, "split: alpha")
    names = _named(chosen["folds"][fold])
    if len(names) != 1:
        raise ContractError(f"split: fold {fold}: underrepresented_context takes one context a fold, not {len(names)}")
    there = _perturbed_in(cells, names[0], fold)
    labels = sorted(set(cells.label[there]))
    keep = max(1, int(chosen["alpha"] * len(labels) + 1e-9))
    if keep >= len(labels):
        raise ContractError(
            f"split: fold {fold}: alpha {chosen['alpha']:g} keeps {keep} of {len(labels)} perturbations of {names[0]} "
            "in training, so none is left to test; lower alpha or use zero_shot_context"
        )
    rng = np.random.default_rng([chosen["seed"], KEPT, zlib.crc32(names[0].encode())])
    kept = rng.choice(labels, size=keep, replace=False)
    return there & ~among(cells.label, kept)


def _zero_shot_context(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
    """Every perturbed cell of the contexts named."""
    return np.logical_or.reduce([_perturbed_in(cells, name, fold) for name in _named(chosen["folds"][fold])])


_TESTED = {
    "kfold_cells": _kfold_cells,
    "unseen_perturbation": _unseen_perturbation,
    "unseen_combination": _unseen_combination,
    "underrepresented_context": _underrepresented_context,
    "zero_shot_context": _zero_shot_context,
}


def _roles_from_file(cells: Cells, path: Path) -> np.ndarray:
    """Roles by cell id; every perturbed cell must be in the file, controls all or none (then their role is empty).

    Ids that are not in the data are left out with a warning, for quality control may have removed such cells.
    """
    if not path.exists():
        raise ContractError(f"{path}: no such file (split, folds:)")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [column for column in ("cell", "role") if column not in table]
    if missing:
        raise ContractError(f"{path}: no column {missing[0]}{did_you_mean(missing[0], list(table.columns))}")
    wrong = table[~table["role"].isin(ROLES)]
    if len(wrong):
        role = wrong["role"].iloc[0]
        raise ContractError(f"{path}: cell {wrong['cell'].iloc[0]} has role {role!r}{did_you_mean(role, ROLES)}")
    twice = table["cell"][table["cell"].duplicated()]
    if len(twice):
        raise ContractError(f"{path}: cell {twice.iloc[0]} has {(table['cell'] == twice.iloc[0]).sum()} rows; keep one")
    rows = pd.Index(cells.names).get_indexer(pd.Index(table["cell"]))
    if not (rows >= 0).any():
        raise ContractError(
            f"{path}: none of its {len(table)} cell ids is in the data "
            f"(file: {table['cell'].iloc[0] if len(table) else 'empty'}, data: {cells.names[0]}); correct the ids"
        )
    if (rows < 0).any():
        gone = f"{path}: {int((rows < 0).sum())} of {len(rows)} cell ids are not in the data (removed by qc?): left out"
        warnings.warn(gone, stacklevel=3)
    roles = np.full(len(cells.names), "", dtype=object)
    roles[rows[rows >= 0]] = table["role"].to_numpy()[rows >= 0]
    for mask, what in ((cells.perturbed, "perturbed"), (cells.control, "control")):
        lost = np.flatnonzero(mask & (roles == ""))
        if len(lost) and (what == "perturbed" or len(lost) < mask.sum()):
            raise ContractError(
                f"{path}: {len(lost)} of {mask.sum()} {what} cells have no role, first {cells.names[lost[0]]}; "
                + ("add them" if what == "perturbed" else "list all controls, or none so that they are halved here")
            )
    return roles


def _control_roles(roles: np.ndarray, cells: Cells, seed: int) -> np.ndarray:
    """Halves per (context, batch) in contexts under test, all ``train`` elsewhere; odd ones out are input.

    The draw covers all controls and knows neither the fold nor the test cells, so a control is on the same side in
    every fold that tests its context.
    """
    rows = np.flatnonzero(cells.control)
    draws = cells.random(rows, seed, HALVES)
    group = pd.MultiIndex.from_arrays([cells.context[rows], cells.batch[rows]])
    codes = pd.factorize(group)[0]
    frame = pd.DataFrame({"group": codes, "draw": draws})
    rank = frame.groupby("group")["draw"].rank(method="first").to_numpy() - 1
    size = np.bincount(codes)[codes] if len(codes) else codes
    halves = np.where(rank < (size + 1) // 2, "control_input", "control_reference")
    tested = among(cells.context[rows], cells.context[roles == "test"])
    result = np.full(len(roles), "", dtype=object)
    result[rows] = np.where(tested, halves, "train")
    return result


def _draw_validation(roles: np.ndarray, cells: Cells, chosen: dict[str, Any], fold: str) -> None:
    """Turns an evenly spaced share of the training cells, shuffled within conditions, into ``val``.

    Conditions with one training cell are left alone, unless there is no other kind (bulk profiles): then validation
    takes whole conditions.
    """
    share = chosen["validation"]
    rows = np.flatnonzero((roles == "train") & cells.perturbed)
    if share == 0 or not len(rows):
        return
    size = np.bincount(cells.condition[rows])[cells.condition[rows]]
    rows = rows[size > 1] if (size > 1).any() else rows
    seed = (chosen["seed"], VALIDATION, zlib.crc32(fold.encode()))
    draws = cells.random(rows, *seed)
    rows = rows[np.lexsort((draws, cells.condition[rows]))]
    offset = np.random.default_rng([*seed, 1]).random()
    steps = np.floor(np.arange(len(rows) + 1) * share + offset)
    roles[rows[np.diff(steps) > 0]] = "val"


# --- checking -----------------------------------------------------------------------------


def check_split(split: pd.DataFrame, obs: pd.DataFrame, settings: Mapping[str, Any]) -> None:
    """Raises :class:`ContractError` unless the roles keep what the split promises.

    Every cell has one role; train and test are not empty, nor is validation unless declared (``validation: 0``);
    controls under test are halved as the seed says; what is held out is absent from train and validation.
    """
    chosen = _chosen(settings)
    roles, cells = roles_of(split, obs), Cells(obs)
    wrong = sorted(set(roles) - set(ROLES))
    if wrong:
        raise ContractError(f"split: no role {wrong[0]}{did_you_mean(wrong[0], ROLES)}")
    for role in ("train", "test", "val"):
        if not ((roles == role) & cells.perturbed).any() and not (role == "val" and chosen["validation"] == 0):
            remedy = "change what the fold holds out"
            if role == "val":
                remedy = "give the file such cells" if chosen["type"] == "file" else "raise validation"
                remedy += ", or declare validation: 0"
            raise ContractError(f"split: no perturbed cell has role {role}; {remedy}")
    _check_controls(roles, cells, chosen)
    _check_promise(roles, cells, asks(settings))


def _check_controls(roles: np.ndarray, cells: Cells, chosen: dict[str, Any]) -> None:
    misplaced = among(roles, ("control_input", "control_reference")) & cells.perturbed
    if misplaced.any():
        name = cells.names[misplaced][0]
        raise ContractError(f"split: cell {name} is perturbed ({cells.label[misplaced][0]}) but has a control's role")
    misplaced = among(roles, ("val", "test")) & cells.control
    if misplaced.any():
        raise ContractError(
            f"split: control cell {cells.names[misplaced][0]} has role {roles[misplaced][0]}; controls are "
            "control_input or control_reference where their context is tested, else train (or leave them all out)"
        )
    tested = among(cells.context, cells.context[roles == "test"])
    for context in sorted(set(cells.context[roles == "test"])):
        here = (cells.context == context) & cells.control
        if not (roles[here] == "control_input").any():
            raise ContractError(
                f"split: context {context} is tested but has no {'input ' if here.any() else ''}control cells; "
                "a prediction starts from them, so take the context out with filter: or give it controls"
            )
    misplaced = cells.control & (tested == (roles == "train"))
    if misplaced.any():
        raise ContractError(
            f"split: control cell {cells.names[misplaced][0]} of context {cells.context[misplaced][0]} has role "
            f"{roles[misplaced][0]}, but that context is {'' if tested[misplaced][0] else 'not '}tested in this fold; "
            "controls are halved into control_input and control_reference there, and train elsewhere"
        )
    if chosen["type"] == "file":
        return
    expected = _control_roles(roles, cells, chosen["seed"])
    moved = cells.control & (roles != expected)
    if moved.any():
        raise ContractError(
            f"split: {int(moved.sum())} controls are not in the half that seed {chosen['seed']} gives them, first "
            f"{cells.names[moved][0]}; halves must be the same in all folds: delete the file so that it is made again"
        )


def _check_promise(roles: np.ndarray, cells: Cells, promise: str) -> None:
    """What each kind of split holds out must not be in train or val; order of components does not matter."""
    test, seen = roles == "test", among(roles, ("train", "val")) & cells.perturbed
    tested_labels = sorted(set(cells.label[test]))
    seen_labels = set(cells.label[seen])
    leaked: list[str] = []
    if promise == "new_context":
        leaked = [f"context {c}" for c in sorted(set(cells.context[test]) & set(cells.context[seen]))]
    elif promise == "new_perturbation":
        shown = {part for label in seen_labels for part in components(label)}
        leaked = [f"perturbation {label}" for label in tested_labels if set(components(label)) <= shown]
    elif promise == "new_combination":
        shown_parts = {sorted_components(label) for label in seen_labels}
        leaked = [f"combination {label}" for label in tested_labels if sorted_components(label) in shown_parts]
        single = [label for label in tested_labels if len(sorted_components(label)) < 2]
        if single:
            raise ContractError(f"split: {single[0]} is tested as an unseen combination but is a single perturbation")
    elif promise == "partial_context":
        shown_pairs = set(zip(cells.context[seen], map(sorted_components, cells.label[seen]), strict=True))
        tested_pairs = sorted(set(zip(cells.context[test], cells.label[test], strict=True)))
        leaked = [
            f"perturbation {b} in context {a}" for a, b in tested_pairs if (a, sorted_components(b)) in shown_pairs
        ]
        alone = sorted(set(cells.context[test]) - set(cells.context[seen]))
        if alone:
            raise ContractError(
                f"split: context {alone[0]} has no perturbed training cell; it should keep a share alpha"
            )
    if leaked:
        raise ContractError(
            f"split: {leaked[0]} is held out, but train or val has cells of it ({len(leaked)} such leaks); "
            "correct the folds"
        )
