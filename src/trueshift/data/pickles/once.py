"""A large file that the page cache does not keep: a table of LINCS is as large as the memory of many a machine.

In the page cache it would drive out what others need, and room for it has to be found page by page. Where a virtual
machine gives free memory back to its host that takes longer than reading does: 7.8 GB came in 12 to 17 s kept and in
4.5 s let go.
"""

import os
from pathlib import Path
from typing import Any, Self

from trueshift.contract import ContractError


class Once:
    """A file whose parts are read once, by their place in it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = self.path.open("rb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, offset: int, room: Any) -> None:
        """Fills a contiguous buffer with what stands at ``offset``."""
        data = memoryview(room).cast("B")
        while data:
            try:
                got = os.preadv(self._file.fileno(), [data], offset)
            except OSError as error:
                raise ContractError(f"{self.path}: cannot be read at byte {offset} ({error.strerror})") from error
            if not got:
                raise ContractError(f"{self.path}: ends at byte {offset}, earlier than it did; is it being written?")
            data, offset = data[got:], offset + got
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, offset, os.POSIX_FADV_DONTNEED)
