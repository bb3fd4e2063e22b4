"""Files read once: what comes, in which order, and that the checksum is that of the whole file."""

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueshift.contract import ContractError
from trueshift.data.sources import once
from trueshift.data.sources.once import Once

CONTENT = np.random.default_rng(0).bytes(5000)


@given(st.lists(st.tuples(st.integers(0, 4999), st.integers(0, 3000)), max_size=8), st.sampled_from(["sha256", "md5"]))
def test_parts_in_any_order_and_the_checksum_of_all(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int]], algorithm: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "file"
    path.write_bytes(CONTENT)
    with pytest.MonkeyPatch.context() as patch, Once(path, algorithm) as file:
        patch.setattr(once, "BLOCK", 700)
        rooms = []
        for offset, length in parts:
            rooms.append(bytearray(min(length, 5000 - offset)))
            file.read(offset, rooms[-1])
            assert rooms[-1] == CONTENT[offset : offset + length]
        expected = f"{algorithm}:{hashlib.new(algorithm, CONTENT).hexdigest()}"
        assert file.checksum() == expected == file.checksum()


def test_two_rooms_may_be_filled_in_turn(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(1 << 23)
    (tmp_path / "file").write_bytes(content)
    rooms = np.empty((2, 1 << 18), np.uint8)
    with Once(tmp_path / "file") as file:
        for part in range(32):
            file.read(part << 18, rooms[part % 2])
        assert file.checksum() == f"sha256:{hashlib.sha256(content).hexdigest()}"


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
            file.checksum()
        file.read(0, bytearray(100))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="NEEDS posix_fadvise")
def test_the_page_cache_does_not_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go: list[tuple[int, int]] = []
    advise = os.posix_fadvise
    monkeypatch.setattr(os, "posix_fadvise", lambda *args: (let_go.append(args[1:3]), advise(*args))[1])
    (tmp_path / "file").write_bytes(CONTENT)
    with Once(tmp_path / "file") as file:
        file.read(1000, bytearray(2000))
        file.checksum()
    assert let_go == [(0, 1000), (0, 3000), (0, 5000)]
