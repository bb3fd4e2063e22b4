"""Who trains and who is tested: one role for every cell, and the proof that nothing held out is in training.

Unseen perturbations and combinations are held out as in GEARS (Roohani et al. 2024, Nature Biotechnology 42:927). An
underrepresented context, of whose perturbations a share α stays in training, and a context without any perturbed
training cell are those of State (Adduri et al. 2025, bioRxiv 2025.06.26.661135). The controls of contexts under test
are halved: one half is input to models, the other is the reference of the truth, so that no control is on both sides
of a score. Scaffolds are those of Bemis & Murcko (1996, J. Med. Chem. 39:2887).
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
from trueshift.data.pdgrapher_folds import FOLDS as PDGRAPHER_FOLDS
from trueshift.data.pdgrapher_folds import listed_roles
from trueshift.data.roles import Cells, among, component_doses, roles_of, sorted_components

DEFAULTS: dict[str, Any] = {
    "type": None,
    "k": None,
    "folds": None,
    "files": None,
    "index": "idx",
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
    "unseen_scaffold": "new_perturbation",
    "unseen_combination": "new_combination",
    "unseen_dose": "new_dose",
    "underrepresented_context": "partial_context",
    "zero_shot_context": "new_context",
    "pdgrapher": "seen",
    "file": None,
}
WITH_K = (
    "kfold_cells",
    "unseen_perturbation",
    "unseen_scaffold",
    "unseen_combination",
    "unseen_dose",
    "zero_shot_context",
)
FROM_FILES = ("pdgrapher", "file")
CLUSTERS = ("perturbation", "context", "batch", "dose", "modality")
# One stream of random numbers per purpose, so that changing one setting leaves the others' draws alone.
FOLDS, KEPT, HALVES, VALIDATION = range(4)


def asks(settings: Mapping[str, Any]) -> str:
    """What the split demands: seen, partial_context, new_context, new_perturbation, new_combination or new_dose."""
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
    if (chosen["type"] == "pdgrapher") != bool(chosen["files"]):
        raise ContractError("split: files: {context: path of its splits.pt} goes with type pdgrapher, and only with it")
    # Half at most: then a condition of two or more cells always keeps one in training.
    in_range(chosen["validation"], 0, 0.5, "split: validation (0 declares that there is none)")
    return chosen


# --- making -------------------------------------------------------------------------------------------


def make_split(
    obs: pd.DataFrame, settings: Mapping[str, Any], fold: str, structures: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The roles of all cells in one fold: columns cell and role, in the order of ``obs``.

    ``settings`` is the split's entry: type, then k (folds are named 1 to k) or folds (a mapping of names), and
    validation, seed, alpha, cluster, asks; of pdgrapher files (context → path) and index. ``structures``, the table of
    that name in ``uns``, is what unseen_scaffold goes by. The same seed gives the same roles whatever the order of the
    rows, and the same halves of the controls in every fold. The result has passed :func:`check_split`.
    """
    chosen = _chosen(settings)
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
    roles[open_controls] = _control_roles(roles, cells, chosen["seed"])[open_controls]
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


def _scaffolds(cells: Cells) -> dict[str, tuple[str, str]]:
    """What stands for the scaffold of every single perturbation: ``("", SMILES)``, or by itself ``(its name, "")``.

    Drugs without rings have no scaffold in common and those without a structure none that is known: by themselves.
    """
    if cells.structures is None:
        raise ContractError(
            "split: unseen_scaffold needs the structures of drugs; name their column (columns: smiles: …) or a table "
            "of them (structures: …) in the dataset's entry"
        )
    known = cells.structures["scaffold"].dropna().astype(str).to_dict()
    single = {part for label in cells.labels for part in components(label)}
    return {part: ("", known[part]) if known.get(part) else (part, "") for part in sorted(single)}


def _unseen_scaffold(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
    """Every label that holds a drug of a held-out scaffold.

    With k, scaffolds are dealt, so folds differ in drugs; drugs without rings and those without a known structure are
    each dealt by itself, the latter with a warning that counts them.
    """
    scaffolds = _scaffolds(cells)
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


def _control_roles(roles: np.ndarray, cells: Cells, seed: int) -> np.ndarray:
    """Halves per (context, batch) in contexts under test, all ``train`` elsewhere; odd ones out are input.

    The draw covers all controls and knows neither the fold nor the test cells, so a control is on the same side in
    every fold that tests its context. Of paired profiles, the controls of those under test are input in any case, for
    a prediction starts from them; the others are halved, and odd ones out are reference.
    """
    rows = np.flatnonzero(cells.control)
    draws = cells.random(rows, seed, HALVES)
    own = np.zeros(len(rows), dtype=bool)
    if cells.control_id is not None:
        own = among(cells.names[rows], cells.control_id[roles == "test"])
    group = pd.MultiIndex.from_arrays([cells.context[rows], cells.batch[rows], own])
    codes = pd.factorize(group)[0]
    frame = pd.DataFrame({"group": codes, "draw": draws})
    rank = frame.groupby("group")["draw"].rank(method="first").to_numpy() - 1
    size = np.bincount(codes)[codes] if len(codes) else codes
    n_input = size // 2 if cells.control_id is not None else (size + 1) // 2
    halves = np.where(own | (rank < n_input), "control_input", "control_reference")
    tested = among(cells.context[rows], cells.context[roles == "test"])
    result = np.full(len(roles), "", dtype=object)
    result[rows] = np.where(tested, halves, "train")
    return result


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


# --- checking -----------------------------------------------------------------------------


def check_split(
    split: pd.DataFrame, obs: pd.DataFrame, settings: Mapping[str, Any], structures: pd.DataFrame | None = None
) -> None:
    """Raises :class:`ContractError` unless the roles keep what the split promises.

    Every cell has one role; train and test are not empty, nor is validation unless declared (``validation: 0``);
    controls under test are halved as the seed says; what is held out is absent from train and validation.
    """
    chosen = _chosen(settings)
    roles, cells = roles_of(split, obs), Cells(obs, structures)
    wrong = sorted(set(roles) - set(ROLES))
    if wrong:
        raise ContractError(f"split: no role {wrong[0]}{did_you_mean(wrong[0], ROLES)}")
    for role in ("train", "test", "val"):
        if not ((roles == role) & cells.perturbed).any() and not (role == "val" and chosen["validation"] == 0):
            remedy = "change what the fold holds out"
            if role == "val":
                remedy = "give the file such cells" if chosen["type"] in FROM_FILES else "raise validation"
                remedy += ", or declare validation: 0"
            raise ContractError(f"split: no perturbed cell has role {role}; {remedy}")
    _check_controls(roles, cells, chosen)
    _check_promise(roles, cells, asks(settings))
    if chosen["type"] == "unseen_scaffold":
        _check_scaffolds(roles, cells)


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
    _check_own_controls(roles, cells)
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


def _check_own_controls(roles: np.ndarray, cells: Cells) -> None:
    """The control that a profile under test is paired with must be there, and input."""
    if cells.control_id is None:
        return
    test = np.flatnonzero(roles == "test")
    there = among(cells.control_id[test], cells.names[roles == "control_input"])
    if not there.all():
        first = test[~there][0]
        raise ContractError(
            f"split: {int((~there).sum())} profiles under test have no input control of their own, first "
            f"{cells.names[first]} (its control_id is {cells.control_id[first]}); keep their controls in filter: and "
            "qc:, and give them role control_input if the split is a file"
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
    elif promise == "new_dose":
        given = cells.doses()
        shown_doses = set(given[seen].itertuples(index=False, name=None))
        tested_doses = sorted(set(given[test].itertuples(index=False, name=None)))
        leaked = [f"perturbation {a} at dose {b}" for a, b in tested_doses if (a, b) in shown_doses]
        trained = set(given["perturbation"][roles == "train"])
        unknown = [name for name, _ in tested_doses if name not in trained]
        if unknown:
            raise ContractError(
                f"split: perturbation {unknown[0]} is tested at a dose it never saw, but train has no other dose of it"
            )
    _refuse(leaked)


def _check_scaffolds(roles: np.ndarray, cells: Cells) -> None:
    """No label under test has only scaffolds that train or val show: of single drugs, no scaffold is on both sides."""
    scaffolds = _scaffolds(cells)
    seen = among(roles, ("train", "val")) & cells.perturbed
    shown = {scaffolds[part] for label in set(cells.label[seen]) for part in components(label)}
    tested = [(label, {scaffolds[x] for x in components(label)}) for label in sorted(set(cells.label[roles == "test"]))]
    _refuse([f"the scaffold of {label}" for label, groups in tested if groups <= shown])


def _refuse(leaked: list[str]) -> None:
    if leaked:
        raise ContractError(
            f"split: {leaked[0]} is held out, but train or val has cells of it ({len(leaked)} such leaks); "
            "correct the folds"
        )
