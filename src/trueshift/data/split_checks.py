"""What a split promises: how controls are halved, and the proof that what is held out stays out of training.

The controls of contexts under test are halved: one half is input to models, the other is the reference of the truth,
so that no control is on both sides of a score.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from trueshift.contract import ROLES, ContractError, components
from trueshift.data.folds import HALVES
from trueshift.data.options import did_you_mean
from trueshift.data.roles import Cells, among, roles_of, sorted_components
from trueshift.data.split_settings import asks, chosen_settings, type_of


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
                remedy = "give the file such cells" if hasattr(type_of(chosen), "listed") else "raise validation"
                remedy += ", or declare validation: 0"
            raise ContractError(f"split: no perturbed cell has role {role}; {remedy}")
    _check_controls(roles, cells, chosen)
    _check_promise(roles, cells, asks(settings))
    leaks = getattr(type_of(chosen), "leaks", None)
    if leaks:
        _refuse(leaks(roles, cells))


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


def _refuse(leaked: list[str]) -> None:
    if leaked:
        raise ContractError(
            f"split: {leaked[0]} is held out, but train or val has cells of it ({len(leaked)} such leaks); "
            "correct the folds"
        )
