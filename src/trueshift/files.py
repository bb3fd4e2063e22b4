"""Files that are whole or not there: written under a temporary name, renamed, and sealed with a checksum."""

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from isal import isal_zlib  # five times faster than zlib, and every file is read for it


class ContractError(ValueError):
    """Something a user gave, or a stage made, breaks the contract. The message names what and the remedy."""


@contextlib.contextmanager
def atomic(path: str | Path, *, sealed: bool = True) -> Iterator[Path]:
    """Yields a temporary sibling of ``path``; renames it to ``path`` when the block ends without an error.

    What no stage reads, a figure, needs no checksum: ``sealed=False``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent, f".{path.stem}.*.partial{path.suffix}*")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        with _named_if_full(path):
            yield temporary
            if sealed:
                _seal(path, temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished_seal(temporary).unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Like :func:`atomic`, for a folder; what stood at ``path`` before is replaced."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent, f".{path.name}.*.partial*")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with _named_if_full(path):
            yield temporary
            _seal(path, temporary)
            if path.exists():
                shutil.rmtree(path)
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _unfinished_seal(temporary).unlink(missing_ok=True)


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, is that of a full disk or a used-up quota, in h5py's words too."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _named_if_full(path: Path) -> Iterator[None]:
    """Turns the failure of a write for want of space into a :class:`ContractError` that names ``path``."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        # torch says only that a write failed; what it wrote still fills the disk
        silent = isinstance(error, RuntimeError) and shutil.disk_usage(path.parent).free < 1 << 16
        if silent or disk_is_full(error):
            raise ContractError(
                f"{path}: no space left on its disk, or in your quota there; make room (df -h {path.parent}) "
                "and run again: what is finished is kept"
            ) from error
        raise


def _sweep(folder: Path, pattern: str) -> None:
    """Removes what writers that were killed left behind: partial files and folders untouched for an hour."""
    for left in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # another writer sweeps too
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _checksum(path: Path) -> str:
    """CRC-32 of a file, or of the names and contents of all files below a folder; eight hexadecimal digits.

    Hidden files of a folder are left out: Snakemake keeps a time stamp there.
    """
    files = [path] if path.is_file() else sorted(path.rglob("[!.]*"))
    value, room = 0, memoryview(bytearray(1 << 18))
    for file in files:
        if file != path:  # of a folder
            value = isal_zlib.crc32(str(file.relative_to(path)).encode(), value)
        if file.is_file():
            with file.open("rb", buffering=0) as content:
                while n := content.readinto(room):
                    value = isal_zlib.crc32(room[:n], value)
    return f"{value:08x}"


def values_of(path: str | Path) -> Path:
    """Where the values of an artefact are that keeps them apart (:mod:`trueshift.values`)."""
    path = Path(path)
    return path.with_name(f".{path.name}.values")


def _seal_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.crc32")


def _unfinished_seal(content: Path) -> Path:
    return content.with_name(f"{content.name}.crc32")


def _seal(path: Path, content: Path) -> None:
    """Writes the checksum of ``content``, about to become ``path``, beside it."""
    temporary = _unfinished_seal(content)
    temporary.write_text(_checksum(content) + "\n")
    temporary.replace(_seal_of(path))


def discard(path: str | Path) -> None:
    """Removes a file, its checksum and the values it keeps apart, as far as they are there."""
    Path(path).unlink(missing_ok=True)
    _seal_of(Path(path)).unlink(missing_ok=True)
    values_of(path).unlink(missing_ok=True)


def check_intact(path: str | Path) -> None:
    """Raises :class:`ContractError` if a file or folder is no longer what was written; one without checksum passes."""
    path = Path(path)
    seal = _seal_of(path)
    if not path.exists():
        raise ContractError(f"{path}: no such file")
    if seal.exists() and seal.read_text().strip() != _checksum(path):
        raise ContractError(
            f"{path}: damaged: not what was written there; delete it so that it is made again "
            f"(or, if you changed it on purpose, delete {seal.name} beside it)"
        )
