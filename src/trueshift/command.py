"""How a script is called, and how it ends: a user's mistake and a full disk are one line, else a traceback."""

import contextlib
import gc
import os
import sys
from collections.abc import Callable
from types import TracebackType

gc.disable()  # what an import makes stays: nothing to look for among it
from trueshift.contract import ContractError, disk_is_full  # noqa: E402 - the first that a script imports

gc.freeze()
gc.enable()


def run(main: Callable[[], None]) -> None:
    """Runs a script's main function; a :class:`ContractError` becomes one line on stderr and exit status 1.

    So does a full disk outside the artefacts, which say it themselves: that of a log or of temporary files.
    """
    _hush_hdf5()
    gc.freeze()  # nor among what the script imports
    try:
        main()
        gc.freeze()  # the end would look for garbage among all that is there, several times: .1 s
    except ContractError as error:
        if disk_is_full(error):
            _end_at_once(f"error: {error}")
        sys.exit(f"error: {error}")
    except (OSError, RuntimeError) as error:
        if not disk_is_full(error):
            raise
        place = getattr(error, "filename", None) or "the log or a temporary file"
        _end_at_once(f"error: {place}: no space left on its disk, or in your quota there; make room and run again")


def _hush_hdf5() -> None:
    """Drops what HDF5 prints of every object that it cannot close on a full disk: the error itself is raised."""
    unraisable, uncaught = sys.unraisablehook, sys.excepthook

    def ignored(what: "sys.UnraisableHookArgs") -> None:
        if not disk_is_full(what.exc_value):
            unraisable(what)

    def printed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not disk_is_full(error):
            uncaught(kind, error, trace)

    sys.unraisablehook, sys.excepthook = ignored, printed


def _end_at_once(message: str) -> None:
    """Ends with status 1. A usual end would have HDF5 write what it could not, and crash over it."""
    for stream, text in ((sys.stdout, ""), (sys.stderr, message + "\n")):
        with contextlib.suppress(OSError):  # the log may be on the full disk
            stream.write(text)
            stream.flush()
    os._exit(1)


def labels(text: str) -> dict[str, str]:
    """Reads ``dataset=a,fold=b``, as Snakemake writes the wildcards of a job."""
    return dict(pair.split("=", 1) for pair in text.split(","))
