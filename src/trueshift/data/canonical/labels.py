"""Labels of a source as the names of single perturbations: what is a control, and where a combination is split."""

import re
from collections.abc import Collection, Iterable
from typing import Any

import pandas as pd

from trueshift.contract import CONTROL, ContractError
from trueshift.data.canonical.columns import MISSING, number_text
from trueshift.data.local_files import Log
from trueshift.data.options import choices

NO_LABEL = "None"  # how controls without a label are declared
SHOWN = 3  # labels that a message names


def controls(declared: Any, labels: pd.Series, where: str, log: Log) -> tuple[list[str], pd.Series]:
    """The labels of controls as text, and all labels, where controls without one are called ``None``.

    ``declared`` is a label or a list of them, each text, a number, true or false, or null: null, ``None`` and ``nan``
    mean cells without a label, which the log counts.
    """
    wanted: list[str] = []
    for label in declared if isinstance(declared, list | tuple) else [declared]:
        name = number_text(label)
        if label is None or name in MISSING:
            name = NO_LABEL
        elif isinstance(label, bool):
            spellings = [name, name.lower(), name.upper()]
            name = next((one for one in spellings if one in labels.cat.categories), name)
        wanted.append(name)
    missing = labels.isna()
    if NO_LABEL in wanted and missing.any():
        log(f"{missing.sum()} cells without a perturbation label are controls, as control: says")
        labels = labels.cat.add_categories([NO_LABEL]).fillna(NO_LABEL)
    return wanted, labels


def split_labels(
    names: Iterable[str], wanted: Collection[str], separator: str | None, where: str
) -> dict[str, list[str]]:
    """The components of every label; a control, and any label without ``separator``, is its own only one.

    A label is split only where every part is a label of its own or looks like a name: it is not empty, has a letter,
    its brackets are in pairs, and it does not begin with a bracket, nor begin or end with a space or a slash.
    ``A + B`` is ``A+B``; a space on one side alone is part of a name with ``+`` (``NAD+ synthesis inhibitor``), other
    separators may have it (``A, B``). Raises :class:`ContractError` for labels that are not split and hold the
    separator, and for controls that no cell has.
    """
    names = list(names)
    alone = {*names, *wanted}
    parts = {name: [name] if name in wanted or not separator else _parts(name, separator, alone) for name in names}
    bad = [name for name, found in parts.items() if not all(_is_name(part, alone) for part in found)]
    if bad:
        others = f" (nor do {', '.join(bad[1:SHOWN])}{' …' * (len(bad) > SHOWN)})" if bad[1:] else ""
        raise ContractError(
            f"{where}: label '{bad[0]}' does not split at '{separator}' into names{others}; set separator: to what "
            "joins combinations in the source; if nothing does, set separator: null"
        )
    present = {*parts, *(part for found in parts.values() for part in found)}
    for control in wanted:
        if control not in present:
            raise ContractError(
                f"{where}: no cell has the control label '{control}'; {choices(control, sorted(parts))}"
            )
    return parts


def _parts(label: str, separator: str, alone: Collection[str]) -> list[str]:
    mark = re.escape(separator)
    parts = re.split(rf"\s+{mark}\s+|{mark}", label)
    if len(parts) == 1:
        return [label]
    return [part.strip() if separator.strip() != "+" or part.strip() in alone else part for part in parts]


def _is_name(part: str, alone: Collection[str]) -> bool:
    if part in alone:
        return True
    in_pairs = all(part.count(one) == part.count(other) for one, other in ("()", "[]", "{}"))
    clean = part == part.strip() and not part.startswith(("(", "[", "{", "/", "\\")) and not part.endswith(("/", "\\"))
    return in_pairs and clean and any(letter.isalpha() for letter in part)


def check_names(parts: Iterable[str], where: str) -> None:
    """Raises :class:`ContractError` for names that mean something else in canonical form."""
    for part in parts:
        if part == CONTROL:
            raise ContractError(f"{where}: '{CONTROL}' is a label but not declared as a control; add it to control:")
        if "@" in part:
            raise ContractError(f"{where}: label '{part}' holds '@', which marks modalities; rename it in the source")
