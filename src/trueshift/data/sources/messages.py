"""The wording of mistakes: what was asked for, what is nearest to it, what there is."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from trueshift.contract import ContractError

SHOWN = 12


def choices(wanted: object, available: Iterable[object]) -> str:
    """The end of a message about an unknown name: the nearest names, then the first ones that exist."""
    names = [str(name) for name in available]
    lower = {name.lower(): name for name in reversed(names)}
    nearest = [lower[match] for match in get_close_matches(str(wanted).lower(), list(lower), n=1)]
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{hint}There are: {', '.join(names[:SHOWN]) or 'none'}{rest}"


def check_keys(given: Mapping[str, Any], allowed: Iterable[str], where: str) -> None:
    """Raises :class:`ContractError` at the first key of ``given`` that is not in ``allowed``."""
    allowed = list(allowed)
    for key in given:
        if key not in allowed:
            raise ContractError(f"{where}: unknown setting '{key}'; {choices(key, allowed)}")
