"""Who trains and who is tested: one role for every cell.

Unseen perturbations and combinations are held out as in GEARS (Roohani et al. 2024, Nature Biotechnology 42:927). An
underrepresented context, of whose perturbations a share α stays in training, and a context without any perturbed
training cell are those of State (Adduri et al. 2025, bioRxiv 2025.06.26.661135). Scaffolds are those of Bemis & Murcko
(1996, J. Med. Chem. 39:2887).
"""

import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trueshift.contract import ROLES, ContractError, components
from trueshift.data.options import did_you_mean, in_range
from trueshift.data.pdgrapher_folds import FOLDS as PDGRAPHER_FOLDS
from trueshift.data.pdgrapher_folds import listed_roles
from trueshift.data.promises import (
    FOLDS,
    KEPT,
    VALIDATION,
    asks,
    check_split,
    chosen_settings,
    control_roles,
    scaffolds_of,
)
from trueshift.data.roles import Cells, among, component_doses, sorted_components

WITH_K = (
    "kfold_cells",
    "unseen_perturbation",
    "unseen_scaffold",
    "unseen_combination",
    "unseen_dose",
    "zero_shot_context",
)


def make_split(
    obs: pd.DataFrame, settings: Mapping[str, Any], fold: str, structures: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The roles of all cells in one fold: columns cell and role, in the order of ``obs``.

    ``settings`` is the split's entry: type, then k (folds are named 1 to k) or folds (a mapping of names), and
    validation, seed, alpha, cluster, asks; of pdgrapher files (context → path) and index. ``structures``, the table of
    that name in ``uns``, is what unseen_scaffold goes by. The same seed gives the same roles whatever the order of the
    rows, and the same halves of the controls in every fold. The result has passed :func:`check_split`.
    """
    chosen = chosen_settings(settings)
    fold = _known_fold(chosen, str(fold))
    cells = Cells(obs, structures)
    if chosen["type"] == "file":
        roles = _roles_from_file(cells, Path(chosen["folds"][fold]))
    elif chosen["type"] == "pdgrapher":
        roles = listed_roles(cells, obs, chosen["files"], chosen["index"], fold)
    else:
        roles = np.where(cells.control, "", "train").astype(object)
        roles[_TESTED[chosen["type"]](cells, chosen, fold)] = "test"
        _draw_validation(roles, cells, chosen, fold)
    open_controls = cells.control & (roles == "")
    roles[open_controls] = control_roles(roles, cells, chosen["seed"])[open_controls]
    split = pd.DataFrame({"cell": obs.index.astype(str), "role": roles.astype(str)})
    check_split(split, obs, settings, structures)
    return split


def _known_fold(chosen: dict[str, Any], fold: str) -> str:
    name, folds, k = chosen["type"], chosen["folds"], chosen["k"]
    if name == "pdgrapher":
        if folds is not None:
            raise ContractError("split: pdgrapher takes files and k, not folds; its folds are those of the files")
        k = PDGRAPHER_FOLDS if k is None else in_range(k, 1, 1000, "split: k")
        return _among_folds(fold, [str(i + 1) for i in range(int(k))])
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
    _among_folds(fold, known)
    if folds is not None:
        chosen["folds"] = {str(key): value for key, value in folds.items()}
    return fold


def _among_folds(fold: str, known: list[str]) -> str:
    if fold not in known:
        raise ContractError(f"split: no fold {fold}{did_you_mean(fold, known)}")
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


def _unseen_scaffold(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
    """Every label that holds a drug of a held-out scaffold.

    With k, scaffolds are dealt, so folds differ in drugs; drugs without rings and those without a known structure are
    each dealt by itself, the latter with a warning that counts them.
    """
    scaffolds = scaffolds_of(cells)
    unknown = sorted(set(scaffolds) - set(cells.structures.index.astype(str))) if cells.structures is not None else []
    if unknown:
        warnings.warn(
            f"split: {len(unknown)} of {len(scaffolds)} drugs have no structure, each is a group of its own: "
            f"{', '.join(unknown[:5])}",
            stacklevel=3,
        )
    if chosen["folds"] is None:
        held = set(_dealt(sorted(set(scaffolds.values())), chosen, fold, "scaffolds"))
    else:
        rings = {smiles for _, smiles in scaffolds.values() if smiles}
        held = {("", name) for name in _named(chosen["folds"][fold])}
        for _, name in held:
            if name not in rings:
                raise ContractError(f"split: fold {fold}: no drug has the scaffold {name}{did_you_mean(name, rings)}")
    return cells.with_label({label for label in cells.labels if any(scaffolds[x] in held for x in components(label))})


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


def _unseen_dose(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
    """Perturbations at some of their doses, in every context; at one of their other doses they train.

    With k, the doses of each perturbation are dealt to different folds, as far as there are as many; with folds, those
    named are held out of every perturbation that has another, of combinations if a component has one of them.
    Perturbations without another dose stay in training: a warning counts them.
    """
    given = cells.doses()
    doses = given[cells.perturbed].drop_duplicates().sort_values(["perturbation", "dose"])
    of: dict[str, list[str]] = {str(name): list(part) for name, part in doses.groupby("perturbation")["dose"]}
    if chosen["folds"] is None:
        several = [name for name, amounts in of.items() if len(amounts) > 1]
        rng = np.random.default_rng([chosen["seed"], FOLDS])
        # one perturbation's doses follow one another, so that they go to different folds
        pairs = [(several[i], str(x)) for i in rng.permutation(len(several)) for x in rng.permutation(of[several[i]])]
        if len(pairs) < chosen["k"]:
            raise ContractError(
                f"split: {chosen['k']} folds of {len(pairs)} doses, those of perturbations with more than one; lower k"
            )
        held = set(pairs[int(fold) - 1 :: int(chosen["k"])])
        staying = [name for name, amounts in of.items() if len(amounts) == 1]
        what = "one dose"
    else:
        wanted = _dose_texts(chosen["folds"][fold], {x for dose in doses["dose"] for x in component_doses(dose)}, fold)
        hit = {name: [dose for dose in amounts if wanted & set(component_doses(dose))] for name, amounts in of.items()}
        held = {(name, dose) for name, amounts in hit.items() for dose in amounts if len(amounts) < len(of[name])}
        staying = [name for name, amounts in hit.items() if len(amounts) == len(of[name])]
        what = "no dose but those held out"
        if not held:
            raise ContractError(
                f"split: fold {fold}: no perturbation has both a dose of {', '.join(sorted(wanted))} and another"
            )
    if staying:
        warnings.warn(
            f"split: {len(staying)} of {len(of)} perturbations have {what} and stay in training: "
            f"{', '.join(staying[:5])}",
            stacklevel=3,
        )
    keys = pd.MultiIndex.from_frame(given)
    return np.asarray(keys.isin(list(held))) & cells.perturbed


def _dose_texts(value: Any, known: set[str], fold: str) -> set[str]:
    """Doses as the data write them."""
    wanted = set()
    for name in _named(value):
        try:
            wanted.add(f"{float(name):.12g}")
        except ValueError:
            raise ContractError(f"split: fold {fold}: dose {name} is not a number") from None
    for dose in sorted(wanted - known):
        raise ContractError(f"split: fold {fold}: nothing was given at dose {dose}{did_you_mean(dose, known)}")
    return wanted


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
    """Every perturbed cell of the contexts named, or of 1/k of the contexts that have such cells."""
    if chosen["folds"] is None:
        names = _dealt(sorted(set(cells.context[cells.perturbed])), chosen, fold, "contexts")
    else:
        names = _named(chosen["folds"][fold])
    return np.logical_or.reduce([_perturbed_in(cells, name, fold) for name in names])


_TESTED = {
    "kfold_cells": _kfold_cells,
    "unseen_perturbation": _unseen_perturbation,
    "unseen_scaffold": _unseen_scaffold,
    "unseen_combination": _unseen_combination,
    "unseen_dose": _unseen_dose,
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


def _draw_validation(roles: np.ndarray, cells: Cells, chosen: dict[str, Any], fold: str) -> None:
    """Turns an evenly spaced share of the training cells, shuffled within conditions, into ``val``.

    Conditions with one training cell are left alone, unless there is no other kind (bulk profiles): then validation
    takes whole conditions, but leaves every perturbation that is tested at a new dose one that it trains at.
    """
    share = chosen["validation"]
    rows = np.flatnonzero((roles == "train") & cells.perturbed)
    if share == 0 or not len(rows):
        return
    size = np.bincount(cells.condition[rows])[cells.condition[rows]]
    whole = not (size > 1).any()
    rows = rows if whole else rows[size > 1]
    seed = (chosen["seed"], VALIDATION, zlib.crc32(fold.encode()))
    draws = cells.random(rows, *seed)
    if whole and asks(chosen) == "new_dose":
        given = cells.doses()["perturbation"].to_numpy()
        first = pd.Series(draws).groupby(given[rows]).rank(method="first").to_numpy() == 1
        free = ~(first & among(given[rows], given[roles == "test"]))
        share = min(1.0, share * len(rows) / max(1, free.sum()))  # the others stand in for those that stay
        rows, draws = rows[free], draws[free]
    rows = rows[np.lexsort((draws, cells.condition[rows]))]
    offset = np.random.default_rng([*seed, 1]).random()
    steps = np.floor(np.arange(len(rows) + 1) * share + offset)
    roles[rows[np.diff(steps) > 0]] = "val"
