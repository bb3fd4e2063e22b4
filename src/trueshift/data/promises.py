"""What a split promises: its settings, what it asks of a model, how controls are halved, and the proof that it holds.

The controls of contexts under test are halved: one half is input to models, the other is the reference of the truth,
so that no control is on both sides of a score.
"""

from collections.abc import Mapping
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
FROM_FILES = ("pdgrapher", "file")
CLUSTERS = ("perturbation", "context", "batch", "dose", "modality")
# One stream of random numbers per purpose, so that changing one setting leaves the others' draws alone.
FOLDS, KEPT, HALVES, VALIDATION = range(4)


def asks(settings: Mapping[str, Any]) -> str:
    """What the split demands: seen, partial_context, new_context, new_perturbation, new_combination or new_dose."""
    chosen = chosen_settings(settings)
    return ASKS[chosen["type"]] or chosen["asks"] or "seen"


def held_out_unit(settings: Mapping[str, Any]) -> str:
    """The obs column whose values are the units that the split holds out: the clusters of its intervals."""
    chosen = chosen_settings(settings)
    default = "context" if asks(settings) == "new_context" else "perturbation"
    cluster = chosen["cluster"] or default
    if cluster not in CLUSTERS:
        raise ContractError(f"split: cluster: no column {cluster}{did_you_mean(cluster, CLUSTERS)}")
    return cluster


def chosen_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with their defaults; raises :class:`ContractError` on what does not go together."""
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


def control_roles(roles: np.ndarray, cells: Cells, seed: int) -> np.ndarray:
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


def scaffolds_of(cells: Cells) -> dict[str, tuple[str, str]]:
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


# --- checking -----------------------------------------------------------------------------


def check_split(
    split: pd.DataFrame, obs: pd.DataFrame, settings: Mapping[str, Any], structures: pd.DataFrame | None = None
) -> None:
    """Raises :class:`ContractError` unless the roles keep what the split promises.

    Every cell has one role; train and test are not empty, nor is validation unless declared (``validation: 0``);
    controls under test are halved as the seed says; what is held out is absent from train and validation.
    """
    chosen = chosen_settings(settings)
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
    expected = control_roles(roles, cells, chosen["seed"])
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
    scaffolds = scaffolds_of(cells)
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
