"""Split type ``unseen_scaffold``: all drugs of 1/k of the scaffolds (Bemis & Murcko 1996), or of those named."""

import warnings
from typing import Any

import numpy as np

from trueshift.contract import ContractError, components
from trueshift.data.folds import dealt, named
from trueshift.data.options import did_you_mean
from trueshift.data.roles import Cells, among

ASKS = "new_perturbation"
SETTINGS = {"k": 5, "folds": None}
NEEDS = ("structures",)


def tested(cells: Cells, chosen: dict[str, Any], fold: str) -> np.ndarray:
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
        held = set(dealt(sorted(set(scaffolds.values())), chosen, fold, "scaffolds"))
    else:
        rings = {smiles for _, smiles in scaffolds.values() if smiles}
        held = {("", name) for name in named(chosen["folds"][fold])}
        for _, name in held:
            if name not in rings:
                raise ContractError(f"split: fold {fold}: no drug has the scaffold {name}{did_you_mean(name, rings)}")
    return cells.with_label({label for label in cells.labels if any(scaffolds[x] in held for x in components(label))})


def leaks(roles: np.ndarray, cells: Cells) -> list[str]:
    """Labels under test whose scaffolds are all in train or val: of single drugs, any that is on both sides."""
    scaffolds = scaffolds_of(cells)
    seen = among(roles, ("train", "val")) & cells.perturbed
    shown = {scaffolds[part] for label in set(cells.label[seen]) for part in components(label)}
    tested = [(label, {scaffolds[x] for x in components(label)}) for label in sorted(set(cells.label[roles == "test"]))]
    return [f"the scaffold of {label}" for label, groups in tested if groups <= shown]


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
