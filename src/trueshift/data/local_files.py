"""Files that an import reads: where they are, and whether they are the right ones. Nothing here uses the network."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueshift.contract import ContractError
from trueshift.data.options import check_keys

FILE_KEYS = ("path", "url", "sha256", "md5", "obtain")

Log = Callable[[str], None]


@dataclass(frozen=True)
class LocalFile:
    """A file that is on disk and checked. ``origin`` is where it came from, ``checksum`` ``algorithm:hex``."""

    path: Path
    origin: str
    checksum: str

    @property
    def size(self) -> int:
        """Bytes; of a folder those of its files together."""
        files = self.path.glob("[!.]*") if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file())


def ensure(entry: str | Mapping[str, Any], data_folder: str | Path, folder: bool = False) -> LocalFile:
    """The file of an entry, there and checked.

    ``entry`` is a path, or a mapping with ``path`` and optionally ``url``, ``sha256`` or ``md5``, and ``obtain`` (a
    sentence for people: how to get a file that has no open address). ``{data}`` in a path is the data folder. With
    ``folder`` a folder of files will do too.

    Raises :class:`ContractError` if the file is missing (saying how to get it), if its checksum is not the declared
    one, or if a file with an address has no declared checksum.
    """
    path, facts = located(entry, data_folder), facts_of(entry)
    if path.exists():
        if not path.is_file() and not (folder and path.is_dir()):
            raise ContractError(f"{path}: is {'a folder' if path.is_dir() else 'no file'}; name a file")
        return verified(entry, data_folder, checksum(path, algorithm_of(entry)))
    if url := facts.get("url"):
        raise ContractError(
            f"{path}: no such file. The rule fetch gets it from {url}: run your snakemake command once with "
            "'--forcerun fetch --until fetch' added, and then as it is; what is there and finished stays"
        )
    how = facts.get("obtain", "place the file there, or correct the path or the data folder")
    raise ContractError(f"{path}: no such file; {how}")


def verified(entry: str | Mapping[str, Any], data_folder: str | Path, found: str) -> LocalFile:
    """The file of an entry, whose checksum was found; raises :class:`ContractError` as :func:`ensure` does."""
    path, url, right = located(entry, data_folder), facts_of(entry).get("url"), declared(entry)
    if right and found != right:
        source = f" (from {url})" if url else ""
        raise ContractError(f"{path}: checksum is {found}, declared is {right}; put the right file there{source}")
    if url and not right:
        raise ContractError(
            f"{path}: fetched from {url}, which has no declared checksum; if the file is the right one, "
            f"add to its entry: {found.replace(':', ': ')}"
        )
    return LocalFile(path, url or facts_of(entry)["path"], found)


def declared(entry: str | Mapping[str, Any]) -> str | None:
    """The checksum that an entry says its file has, ``algorithm:hex``; None if it says none."""
    facts = facts_of(entry)
    return next((f"{name}:{facts[name].lower()}" for name in ("sha256", "md5") if facts.get(name)), None)


def algorithm_of(entry: str | Mapping[str, Any]) -> str:
    """That of the declared checksum, otherwise sha256."""
    return (declared(entry) or "sha256").split(":")[0]


def located(entry: str | Mapping[str, Any], data_folder: str | Path) -> Path:
    """Where the file of an entry is, or is to be put; raises :class:`ContractError` if the entry does not say."""
    facts = facts_of(entry)
    check_keys(facts, FILE_KEYS, "source file")
    if not facts.get("path"):
        raise ContractError("source: no path; say where the file is, or is to be put ({data} is the data folder)")
    return Path(facts["path"].replace("{data}", str(data_folder))).expanduser()


def facts_of(entry: str | Mapping[str, Any]) -> dict[str, Any]:
    """An entry as a mapping, also where it is written as a path alone."""
    return {"path": entry} if isinstance(entry, str) else dict(entry)


def checksum(path: str | Path, algorithm: str = "sha256") -> str:
    """The checksum of a file as ``algorithm:hex``.

    Of a folder it is that of the names and checksums of its files, as ``sha256sum *`` lists them, without hidden ones.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.glob("[!.]*") if file.is_file())
        listing = "".join(f"{checksum(file, algorithm).split(':')[1]}  {file.name}\n" for file in files)
        return f"{algorithm}:{hashlib.new(algorithm, listing.encode()).hexdigest()}"
    with path.open("rb") as stream:
        return f"{algorithm}:{hashlib.file_digest(stream, algorithm).hexdigest()}"
