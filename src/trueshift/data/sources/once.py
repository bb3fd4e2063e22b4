"""A large file read once: its checksum is computed on the way, and the page cache does not keep it.

A table of LINCS is as large as the memory of many a machine. In the page cache it would drive out what others need, and
room for it has to be found page by page. Where a virtual machine gives free memory back to its host that takes longer
than reading does: 7.8 GB came in 12 to 17 s kept and in 4.5 s let go.
"""

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from trueshift.contract import ContractError

BLOCK = 1 << 24  # bytes read together where only the checksum needs them


class Once:
    """A file that is read from its beginning to its end, with the checksum of all of it."""

    def __init__(self, path: str | Path, algorithm: str = "sha256") -> None:
        self.path = Path(path)
        self._digest = hashlib.new(algorithm)
        self._file = self.path.open("rb", buffering=0)
        self._at = 0
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self._file.close()

    def read(self, offset: int, room: Any) -> None:
        """Fills a contiguous buffer with what stands at ``offset``; it must stay so until the next call returned.

        What stands before it counts for the checksum too. Going back is no error: that part is then read again.
        """
        data = memoryview(room).cast("B")
        if offset < self._at:
            self._fill(data, offset)
            return
        self._go_to(offset)
        self._fill(data, offset)
        self._at += len(data)
        if self._last:
            self._last.result()
        self._last = self._pool.submit(self._digest.update, data)

    def checksum(self) -> str:
        """Of the whole file, as ``algorithm:hex``; reads what was not read yet."""
        self._go_to(os.fstat(self._file.fileno()).st_size)
        if self._last:
            self._last.result()
        return f"{self._digest.name}:{self._digest.hexdigest()}"

    def _go_to(self, offset: int) -> None:
        size = min(BLOCK, offset - self._at)
        rooms = [memoryview(bytearray(size)) for _ in range(2)] if size > 0 else []
        while self._at < offset:
            rooms.reverse()
            self.read(self._at, rooms[0][: offset - self._at])

    def _fill(self, data: memoryview, offset: int) -> None:
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
