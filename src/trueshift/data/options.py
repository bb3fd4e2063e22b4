"""Settings of a stage: defaults filled in, misspelt names refused with the nearest right one."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from trueshift.contract import ContractError

SHOWN = 12  # names that a message lists


def did_you_mean(name: object, names: Collection[object]) -> str:
    """The tail of an error message: the nearest of ``names`` if one is near, and the first few that there are."""
    known = sorted(map(str, names))
    close = difflib.get_close_matches(str(name), known, 1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    shown = ", ".join(known[:8]) + (f", … {len(known)} in all" if len(known) > 8 else "")
    return f"{hint} (there are: {shown or 'none'})"


def options(settings: Mapping[str, Any] | None, defaults: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """``defaults`` overlaid with ``settings``; a key that ``defaults`` lacks is a :class:`ContractError`."""
    given = dict(settings or {})
    for key in given:
        if key not in defaults:
            raise ContractError(f"{stage}: no setting {key}{did_you_mean(key, defaults)}")
    return {**defaults, **given}


def in_range(value: Any, low: float, high: float, name: str) -> float:
    """``value`` if it is a number between ``low`` and ``high``, ends included; a :class:`ContractError` if not."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ContractError(f"{name} is {value!r}; give a number from {low:g} to {high:g}")
    return value


def choices(wanted: object, available: Iterable[object]) -> str:
    """The end of a message about an unknown name: the nearest names, then the first ones that exist."""
    names = [str(name) for name in available]
    lower = {name.lower(): name for name in reversed(names)}
    nearest = [lower[match] for match in difflib.get_close_matches(str(wanted).lower(), list(lower), n=1)]
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{hint}There are: {', '.join(names[:SHOWN]) or 'none'}{rest}"


def check_keys(given: Mapping[str, Any], allowed: Iterable[str], where: str) -> None:
    """Raises :class:`ContractError` at the first key of ``given`` that is not in ``allowed``."""
    allowed = list(allowed)
    for key in given:
        if key not in allowed:
            raise ContractError(f"{where}: unknown setting '{key}'; {choices(key, allowed)}")
