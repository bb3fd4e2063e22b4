"""Files read once: what comes, in which order, and that the page cache lets go of it."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueshift.contract import ContractError
from trueshift.data.pickles.once import Once

CONTENT = np.random.default_rng(0).bytes(5000)


@given(st.lists(st.tuples(st.integers(0, 4999), st.integers(0, 3000)), max_size=8))
def test_parts_in_any_order(tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int]]) -> None:
    path = tmp_path_factory.getbasetemp() / "file"
    path.write_bytes(CONTENT)
    with Once(path) as file:
        for offset, length in parts:
            room = bytearray(min(length, 5000 - offset))
            file.read(offset, room)
            assert room == CONTENT[offset : offset + length]


def test_a_file_that_became_shorter_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with Once(path) as file:
        os.truncate(path, 4000)
        with pytest.raises(ContractError, match=r"file: ends at byte 4000, earlier than it did; is it being written"):
            file.read(3000, bytearray(2000))


def test_a_disk_that_fails_is_named_with_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(file: int, rooms: list[memoryview], offset: int) -> int:
        if offset >= 4096:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(file, [rooms[0][:2048]], offset)

    read = os.preadv
    monkeypatch.setattr(os, "preadv", failing)
    (tmp_path / "file").write_bytes(CONTENT)
    with Once(tmp_path / "file") as file:
        with pytest.raises(ContractError, match=r"file: cannot be read at byte 4096 \(Input/output error\)"):
            file.read(0, bytearray(5000))
        file.read(0, bytearray(100))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="NEEDS posix_fadvise")
def test_the_page_cache_does_not_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go: list[tuple[int, int]] = []
    advise = os.posix_fadvise
    monkeypatch.setattr(os, "posix_fadvise", lambda *args: (let_go.append(args[1:3]), advise(*args))[1])
    (tmp_path / "file").write_bytes(CONTENT)
    with Once(tmp_path / "file") as file:
        file.read(1000, bytearray(2000))
        file.read(3000, bytearray(2000))
    assert let_go == [(0, 3000), (0, 5000)]
