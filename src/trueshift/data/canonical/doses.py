"""Doses of a source as numbers in one unit.

A dose is a number, or a number with a unit: ``100 nM``, ``0.04 µM``, ``5 ng/ml``. Concentrations of one kind (molar, or
mass by volume) are converted into one another; both micro signs, ``u`` and the case of letters are one.
"""

import re
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd

from trueshift.contract import ContractError
from trueshift.data.local_files import Log

# unit → power of ten of the kind's own unit
KINDS = {
    "molar": {"M": 0, "mM": -3, "uM": -6, "nM": -9, "pM": -12},
    "mass by volume": {"mg/ml": -3, "ug/ml": -6, "ng/ml": -9, "pg/ml": -12},
}
COMMON = {"molar": "uM", "mass by volume": "ug/ml"}  # what doses in several units are written in
NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*)")


class Unit(NamedTuple):
    """A known unit: how it is written, its kind and its power of ten."""

    name: str
    kind: str
    exponent: int


class Amount(NamedTuple):
    """A dose as it is written: the number, the unit as text ("" if there is none), and the whole."""

    number: float
    unit: str
    text: str


UNITS = {name.lower(): Unit(name, kind, exponent) for kind, of in KINDS.items() for name, exponent in of.items()}
NAMES = ", ".join(unit.name for unit in UNITS.values())


def plain_unit(text: str) -> str:
    """A unit without what does not matter: micro signs are u, letters are small."""
    return re.sub("[µμ]", "u", text).lower().strip()


def amount(text: str) -> Amount | None:
    """Reads a number and what follows it; None where the text does not begin with a number."""
    found = NUMBER.fullmatch(text.strip())
    return Amount(_shortest(float(found[1])), found[2], text.strip()) if found else None


def _shortest(number: float) -> float:
    """0.1 for 0.10000000149, which is 0.1 held in 32 bits; other numbers as they are."""
    if number.is_integer() or abs(number) > np.finfo(np.float32).max:
        return number
    single = np.float32(number)
    return float(str(single)) if float(single) == number else number


def common_unit(amounts: Collection[Amount], declared: str | None, where: str, log: Log) -> str:
    """The unit that all doses are to be written in: the declared one, or the one of the doses; "" if there is none.

    Doses in several units of one kind are written in uM or ug/ml, which the log says. Raises :class:`ContractError`
    for a unit that is not known or cannot be converted, and where nothing says the unit of a dose without one.
    """
    of = {a.unit: _known(a, declared, where) for a in amounts if a.unit}
    examples = {unit: next(a.text for a in amounts if of.get(a.unit) == unit) for unit in dict.fromkeys(of.values())}
    if declared:
        target = UNITS.get(plain_unit(declared))
        for unit, example in examples.items():
            if unit is not None and unit != target and (target is None or unit.kind != target.kind):
                raise ContractError(
                    f"{where}: dose '{example}' cannot be converted to unit: {declared}; set unit: to a unit of the "
                    "same kind, or convert it in the source"
                )
        others = [unit.name for unit in examples if unit is not None and unit != target]
        if others:
            log(f"doses in {', '.join(others)} are converted to {declared}")
        return declared
    units = [unit for unit in examples if unit is not None]
    bare = next((a.text for a in amounts if not a.unit and a.number), None)  # 0 is 0 in every unit
    if units and bare is not None:
        raise ContractError(
            f"{where}: some doses have a unit, such as '{examples[units[0]]}', and some have none, such as '{bare}'; "
            f"say with unit: which unit those without one are in (unit: {units[0].name})"
        )
    if len({unit.kind for unit in units}) > 1:
        first, other = (next(unit for unit in units if unit.kind == kind) for kind in KINDS)
        raise ContractError(
            f"{where}: doses such as '{examples[first]}' and '{examples[other]}' cannot be converted into one another; "
            "convert one of them in the source, or make two datasets of it with filter:"
        )
    if not units:
        return ""
    name = units[0].name if len(units) == 1 else COMMON[units[0].kind]
    log(f"doses are in {', '.join(sorted(unit.name for unit in units))}; they are written in {name}")
    return name


def _known(of: Amount, declared: str | None, where: str) -> Unit | None:
    """The unit of a dose; None for the declared one that is not among those known."""
    unit = UNITS.get(plain_unit(of.unit))
    if unit is None and (not declared or plain_unit(of.unit) != plain_unit(declared)):
        raise ContractError(
            f"{where}: dose '{of.text}' is not a number with a known unit ({NAMES}); correct it in the source, or, if "
            f"all doses are in '{of.unit}', set unit: {of.unit}"
        )
    return unit


def in_unit(of: Amount, unit: str) -> str:
    """A dose as number text in a unit that :func:`common_unit` gave."""
    own, target = UNITS.get(plain_unit(of.unit)), UNITS.get(plain_unit(unit))
    power = own.exponent - target.exponent if own and target else 0
    number = of.number * 10**power if power >= 0 else of.number / 10**-power
    return f"{number:.12g}"


def check_extract(whole: pd.Series, pattern: str, declared: str | None, where: str) -> None:
    """Raises :class:`ContractError` where ``extract`` takes numbers that stand before different units.

    ``whole`` holds the doses of perturbed cells before the extraction, shape (N,). So it does where the units left
    behind are not the declared one.
    """
    dropped: dict[str, str] = {}
    for text in whole.dropna().astype(str).unique():
        found = re.search(pattern, text)
        taken = amount(found[1] or "") if found else None
        if found is None or taken is None or taken.unit or not taken.number:
            continue
        behind = re.match(r"\s*([a-zA-Zµμ/]+)", text[found.end(1) :])
        unit = UNITS.get(plain_unit(behind[1])) if behind else None
        dropped.setdefault(unit.name if unit else "", text)
    wanted = {plain_unit(declared)} if declared else set()
    if len(dropped) > 1 or (wanted and any(name and plain_unit(name) not in wanted for name in dropped)):
        shown = " and ".join(f"'{text}'" for text in list(dropped.values())[:2])
        raise ContractError(
            f"{where}: extract '{pattern}' drops the unit of doses such as {shown}; leave extract out, as units are "
            "read and converted, or put the unit into its group: '([0-9.]+ ?[a-zA-Zµ/]+)'"
        )


def amounts_of(dose: str, parts: list[str], where: str, label: str) -> list[Amount]:
    """The doses of the components of a label; one dose stands for all of them."""
    found = [amount(part) for part in parts]
    amounts = [one for one in found if one is not None]
    if len(amounts) < len(found):
        raise ContractError(
            f"{where}: dose '{dose}' of '{label}' is not a number, with or without a unit; correct it in the source, "
            "leave such cells out with filter:, or take number and unit with extract: '([0-9.]+ ?[a-zA-Zµ/]*)'"
        )
    return amounts
