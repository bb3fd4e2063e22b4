"""How a script ends: a user's mistake is one line, anything else a traceback."""

import sys
from collections.abc import Callable

from trueshift.contract import ContractError


def run(main: Callable[[], None]) -> None:
    """Runs a script's main function; a :class:`ContractError` becomes one line on stderr and exit status 1."""
    try:
        main()
    except ContractError as error:
        sys.exit(f"error: {error}")
