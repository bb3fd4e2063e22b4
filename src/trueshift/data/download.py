"""Files of a source: found on disk or fetched over HTTP, resumed where a transfer broke, checked before use."""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from trueshift.contract import ContractError
from trueshift.data.options import check_keys

CHUNK = 1 << 20
FAILURES = 4  # transfers in a row that brought nothing, before giving up
FILE_KEYS = ("path", "url", "sha256", "md5", "obtain")

Log = Callable[[str], None]


@dataclass(frozen=True)
class LocalFile:
    """A file that is on disk and checked. ``origin`` is where it came from, ``checksum`` ``algorithm:hex``."""

    path: Path
    origin: str
    checksum: str


def ensure(
    entry: str | Mapping[str, Any],
    data_folder: str | Path,
    log: Log = print,
    pause: float = 1.0,
    folder: bool = False,
) -> LocalFile:
    """Returns a checked file; fetches it first when it is not there and the entry has an address.

    ``entry`` is a path, or a mapping with ``path`` and optionally ``url``, ``sha256`` or ``md5``, and ``obtain`` (a
    sentence for people: how to get a file that has no open address). ``{data}`` in a path is the data folder.
    ``pause`` is the wait in seconds before the first new attempt; it doubles with each. With ``folder`` a folder of
    files will do too.

    Raises :class:`ContractError` if the file is missing and cannot be fetched (saying which file to place where), if
    its checksum is not the declared one, or if a file with an address has no declared checksum.
    """
    path, url = located(entry, data_folder), _facts(entry).get("url")
    if path.exists():
        if not path.is_file() and not (folder and path.is_dir()):
            raise ContractError(f"{path}: is {'a folder' if path.is_dir() else 'no file'}; name a file")
        found = (folder_checksum if path.is_dir() else checksum)(path, algorithm_of(entry))
    elif url:
        found = _download(url, path, declared(entry), log, pause)
    else:
        how = _facts(entry).get("obtain", "place the file there, or correct the path or the data folder")
        raise ContractError(f"{path}: no such file; {how}")
    return verified(entry, data_folder, found)


def verified(entry: str | Mapping[str, Any], data_folder: str | Path, found: str) -> LocalFile:
    """The file of an entry, whose checksum was found; raises :class:`ContractError` as :func:`ensure` does."""
    path, url, right = located(entry, data_folder), _facts(entry).get("url"), declared(entry)
    if right and found != right:
        source = f" (from {url})" if url else ""
        raise ContractError(f"{path}: checksum is {found}, declared is {right}; put the right file there{source}")
    if url and not right:
        raise ContractError(
            f"{path}: fetched from {url}, which has no declared checksum; if the file is the right one, "
            f"add to its entry: {found.replace(':', ': ')}"
        )
    return LocalFile(path, url or _facts(entry)["path"], found)


def declared(entry: str | Mapping[str, Any]) -> str | None:
    """The checksum that an entry says its file has, ``algorithm:hex``; None if it says none."""
    facts = _facts(entry)
    return next((f"{name}:{facts[name].lower()}" for name in ("sha256", "md5") if facts.get(name)), None)


def algorithm_of(entry: str | Mapping[str, Any]) -> str:
    """That of the declared checksum, otherwise sha256."""
    return (declared(entry) or "sha256").split(":")[0]


def located(entry: str | Mapping[str, Any], data_folder: str | Path) -> Path:
    """Where the file of an entry is, or is to be put; raises :class:`ContractError` if the entry does not say."""
    facts = _facts(entry)
    check_keys(facts, FILE_KEYS, "source file")
    if not facts.get("path"):
        raise ContractError("source: no path; say where the file is, or is to be put ({data} is the data folder)")
    return Path(facts["path"].replace("{data}", str(data_folder)))


def _facts(entry: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"path": entry} if isinstance(entry, str) else dict(entry)


def checksum(path: str | Path, algorithm: str = "sha256") -> str:
    """The checksum of a file as ``algorithm:hex``."""
    with Path(path).open("rb") as stream:
        return f"{algorithm}:{hashlib.file_digest(stream, algorithm).hexdigest()}"


def folder_checksum(folder: Path, algorithm: str = "sha256") -> str:
    """That of the names and checksums of the files in a folder, as ``sha256sum *`` lists them, without hidden ones."""
    files = sorted(file for file in folder.glob("[!.]*") if file.is_file())
    listing = "".join(f"{checksum(file, algorithm).split(':')[1]}  {file.name}\n" for file in files)
    return f"{algorithm}:{hashlib.new(algorithm, listing.encode()).hexdigest()}"


def _download(url: str, path: Path, declared: str | None, log: Log, pause: float) -> str:
    """Fetches into ``<path>.part``, checks it, renames it. Two processes that want one file take turns."""
    if not url.startswith(("https://", "http://")):
        raise ContractError(f"{url}: only http and https addresses are fetched; put the file at {path}")
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(part) as stream:
        if path.exists():  # fetched by another process while this one waited for its turn
            part.unlink()
            found = checksum(path, declared.split(":")[0] if declared else "sha256")
        else:
            try:
                _transfer_all(url, stream, log, pause)
            except (OSError, HTTPException) as error:
                if not part.stat().st_size:
                    part.unlink()
                raise ContractError(
                    f"could not fetch {url} ({error}); run again to go on where it stopped ({part}), "
                    f"or place the file by hand: address {url}, checksum {declared or 'not declared'}, to {path}"
                ) from error
            stream.flush()
            found = checksum(part, declared.split(":")[0] if declared else "sha256")
            if not declared or found == declared:
                part.replace(path)
                log(f"fetched {url} to {path}")
            else:
                part.unlink()
        if declared and found != declared:
            raise ContractError(
                f"{url}: checksum of what came is {found}, declared is {declared}; the bad file was removed. "
                "Correct the checksum or the address, or run again if the transfer was damaged"
            )
    return found


def _transfer_all(url: str, stream: BinaryIO, log: Log, pause: float) -> None:
    failures = 0
    while True:
        before = stream.seek(0, os.SEEK_END)
        if before:
            log(f"resuming {url} after {before} bytes")
        try:
            return _transfer(url, stream, before)
        except (OSError, HTTPException) as error:
            refused = isinstance(error, HTTPError) and 400 <= error.code < 500 and error.code not in (408, 416, 429)
            failures = 1 if stream.seek(0, os.SEEK_END) > before else failures + 1
            if refused or failures >= FAILURES:
                raise
            time.sleep(pause * 2 ** (failures - 1))


def _transfer(url: str, stream: BinaryIO, offset: int) -> None:
    """Appends to ``stream`` what the server has from byte ``offset`` on; an early end is an OSError."""
    headers = {"User-Agent": "trueshift"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        response = urlopen(Request(url, headers=headers), timeout=60)
    except HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range", "").endswith(f"/{offset}"):
            return  # all of it had already come
        if error.code == 416:
            stream.truncate(0)  # the partial file is longer than the remote one: of another version
        raise
    with response:
        if response.status not in (200, 206):
            raise OSError(f"the server answered {response.status} instead of the file")
        if response.status == 200:
            stream.truncate(0)  # the server ignores Range: from the start
        expected, received = response.headers.get("Content-Length"), 0
        while block := response.read(CHUNK):
            stream.write(block)
            received += len(block)
    if expected is not None and received != int(expected):
        raise OSError(f"the connection ended after {received} of {expected} bytes")


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """The partial file, open for appending and locked; waits while another process holds it."""
    while True:
        stream = part.open("a+b")
        fcntl.flock(stream, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # removed or renamed, and may be at any moment of this
            if os.path.samestat(os.fstat(stream.fileno()), part.stat()):
                break
        stream.close()  # what this one waited for is not the partial file any more
    with stream:
        yield stream
