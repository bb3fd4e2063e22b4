"""Files with an address: fetched over HTTP within bounds, resumed where a transfer broke, checked before use."""

import asyncio
import contextlib
import fcntl
import ipaddress
import os
import re
import shutil
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from trueshift.contract import ContractError, disk_is_full
from trueshift.data.local_files import (
    LocalFile,
    Log,
    algorithm_of,
    checksum,
    declared,
    ensure,
    facts_of,
    located,
    verified,
)

HEADERS = {"User-Agent": "trueshift", "Accept-Encoding": "identity"}  # the bytes whose checksum is declared
ATTEMPTS = 4  # in a row that brought next to nothing, before giving up
AGAIN = (408, 416, 429)  # of the client's errors, those that another attempt may not meet
REDIRECTS = 10


@dataclass(frozen=True)
class Limits:
    """What one file may take: bytes and seconds.

    No file has more than ``max_bytes``, and ``reserve`` bytes stay free on the disk. A transfer ends after ``total``
    seconds, and an attempt when fewer than ``step`` bytes came in ``stall`` seconds. ``pause`` is the wait before the
    first new attempt; it doubles with each that brings fewer than ``step`` bytes.
    """

    max_bytes: int = 100 * 10**9
    reserve: int = 500 * 10**6
    total: float = 24 * 3600
    stall: float = 60
    step: int = 1 << 16
    pause: float = 4


class RefusedError(Exception):
    """What a server does, and would do again: no new attempt is made."""


def fetch(
    entry: Mapping[str, Any], data_folder: str | Path, log: Log = print, limits: Limits | None = None
) -> LocalFile:
    """The file of an entry with ``path``, ``url``, and ``sha256`` or ``md5``; one that is not there is fetched first.

    Where the environment names a proxy, it is used. A redirect is not followed to another scheme than http and https,
    from https to http, or to a host within the network here (:func:`_check_redirect`).

    Raises :class:`ContractError`, naming the address, the file and the remedy, if the file cannot be fetched within
    the limits, if its checksum is not the declared one, or if none is declared. What came of a file that has a declared
    checksum stays beside it, in ``<path>.part``, and the next call goes on from there.
    """
    path = located(entry, data_folder)
    if path.exists():
        return ensure(entry, data_folder, folder=True)
    url, right = facts_of(entry)["url"], declared(entry)
    by_hand = f"place the file by hand: address {url}, checksum {right or 'not declared'}, to {path}"
    if not url.startswith(("https://", "http://")):
        raise ContractError(f"{url}: only http and https addresses are fetched; {by_hand}")
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part) as stream:
            if path.exists():  # fetched by another process while this one waited for its turn
                part.unlink()
                return ensure(entry, data_folder)
            asyncio.run(_Transfer(url, stream, part, right is not None, log, limits or Limits()).run())
            stream.flush()
            found = checksum(part, algorithm_of(entry))
            if right and found != right:
                part.unlink()
                raise ContractError(
                    f"{url}: checksum of what came is {found}, declared is {right}; the bad file was removed. "
                    "Correct the checksum or the address, or run again if the transfer was damaged"
                )
            part.replace(path)
    except (RefusedError, OSError, httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        came = part.stat().st_size if part.exists() else 0
        kept = f"{came} bytes are in {part}; run again to go on from there" if came else "run again"
        what = str(error) or type(error).__name__  # some errors of connections have no words
        raise ContractError(f"{url}: not fetched: {what}. Nothing is lost: {kept}, or {by_hand}") from error
    log(f"fetched {url} to {path}")
    return verified(entry, data_folder, found)


class _Transfer:
    """The transfer of one address into an open file that may hold the beginning already."""

    def __init__(self, url: str, stream: BinaryIO, part: Path, resumes: bool, log: Log, limits: Limits) -> None:
        self.url, self.stream, self.part, self.log, self.limits = httpx.URL(url), stream, part, log, limits
        self.resumes = resumes  # without a checksum nobody would notice a file of two versions

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self.stream.seek(0, os.SEEK_END)

    async def run(self) -> None:
        """Attempts until all has come; raises OSError, RefusedError or an error of httpx."""
        try:
            async with asyncio.timeout(self.limits.total), self._client() as client:
                await self._attempts(client)
        except TimeoutError as error:
            raise RefusedError(f"not finished within {self.limits.total:g} s") from error

    def _client(self) -> httpx.AsyncClient:
        try:  # the certificates of the system, as an institute may have its own; the times are bounded here
            return httpx.AsyncClient(headers=HEADERS, timeout=None, verify=ssl.create_default_context())
        except (ImportError, ValueError) as error:
            raise RefusedError(f"the proxy that the environment names cannot be used: {error}") from error

    async def _attempts(self, client: httpx.AsyncClient) -> None:
        failures = 0
        while True:
            if not self.resumes:
                self.stream.truncate(0)
            before = self.size
            if before:
                self.log(f"resuming {self.url} after {before} bytes")
            try:
                return await self._attempt(client, before)
            except (OSError, httpx.TransportError) as error:
                failures = 0 if self.size - before >= self.limits.step else failures + 1
                if failures >= ATTEMPTS or disk_is_full(error):
                    raise
                self.log(f"{self.url}: {str(error) or type(error).__name__}")
            await asyncio.sleep(self.limits.pause * 2 ** max(failures - 1, 0))

    async def _attempt(self, client: httpx.AsyncClient, offset: int) -> None:
        """Appends what the server has from byte ``offset`` on; an early end is an error."""
        loop, stall = asyncio.get_running_loop(), self.limits.stall
        try:
            async with asyncio.timeout(stall) as alarm:
                response = await self._answer(client, offset)
                try:
                    if _is_all(response, offset):
                        return
                    whole, room, bound = self._begin(response, offset)
                    new = 0
                    async for block in response.aiter_raw():
                        room -= len(block)
                        if room < 0:
                            if self.size + len(block) > self.limits.max_bytes:  # of no use to any later attempt
                                self.stream.truncate(0)
                            raise RefusedError(f"the server sends too much; {bound}")
                        self.stream.write(block)
                        new += len(block)
                        if new >= self.limits.step:
                            new = 0
                            alarm.reschedule(loop.time() + stall)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise OSError(f"fewer than {self.limits.step} bytes came in {stall:g} s") from error
        if whole is not None and self.size != whole:
            raise OSError(f"the connection ended after {self.size} of {whole} bytes")

    def _begin(self, response: httpx.Response, offset: int) -> tuple[int | None, int, str]:
        """Makes the file ready for an answer; returns the size of the whole if it is said, how many bytes may come, and
        in words why no more."""
        status, told = response.status_code, _part_of(response)
        if status not in (200, 206) or (status == 206 and told.get("start", offset) != offset):
            if status in (206, 416):  # not the part that was asked: what is there is of another version
                self.stream.truncate(0)
            error = RefusedError if 400 <= status < 500 and status not in AGAIN else OSError
            raise error(f"the server answered {status} instead of the file")
        start = offset if status == 206 else 0  # 200: it ignores Range and sends all
        free = shutil.disk_usage(self.part.parent).free + (offset - start) - self.limits.reserve
        room, bound = self.limits.max_bytes - start, f"no file of more than {self.limits.max_bytes} bytes is fetched"
        if free < room:
            room, bound = free, f"{self.part.parent} has room for {max(free, 0)} bytes more; make room"
        announced = int(response.headers.get("Content-Length", 0))
        if announced > room:
            raise RefusedError(f"{announced} bytes are to come; {bound}")
        if start < offset:
            self.stream.truncate(0)
        return told.get("whole"), room, bound

    async def _answer(self, client: httpx.AsyncClient, offset: int) -> httpx.Response:
        """What the server answers, redirects followed; its body is yet to be read."""
        request = client.build_request("GET", self.url, headers={"Range": f"bytes={offset}-"} if offset else {})
        for _ in range(REDIRECTS):
            response = await client.send(request, stream=True)
            if response.next_request is None:
                return response
            await response.aclose()
            await _check_redirect(request.url, response.next_request.url, self.url.host)
            request = response.next_request
        raise RefusedError(f"more than {REDIRECTS} redirects")


def _part_of(response: httpx.Response) -> dict[str, int]:
    """``start`` and ``whole``, in bytes, as far as ``Content-Range`` says them."""
    text = response.headers.get("Content-Range", "")
    found = {"start": re.match(r"bytes (\d+)-", text), "whole": re.search(r"/(\d+)$", text)}
    return {name: int(match[1]) for name, match in found.items() if match}


def _is_all(response: httpx.Response, offset: int) -> bool:
    """Whether the server says that nothing comes after ``offset``: an earlier attempt had brought all."""
    return response.status_code == 416 and offset > 0 and _part_of(response).get("whole") == offset


async def _check_redirect(source: httpx.URL, target: httpx.URL, named: str) -> None:
    """Raises :class:`RefusedError` for a redirect that leads out of the public web.

    The user trusts the host that the entry names (``named``), not what it points to: a file, a server that only this
    machine reaches, or the address where a cloud hands out its keys.
    """
    where = f"redirected to {target.scheme}://{target.host}"
    if target.scheme not in ("http", "https"):
        raise RefusedError(f"{where}; only http and https are followed")
    if source.scheme == "https" and target.scheme == "http":
        raise RefusedError(f"{where}; https is not left for http")
    if target.host == named:
        return
    try:
        found = await asyncio.get_running_loop().getaddrinfo(target.host, None)
    except OSError:  # known to a proxy only; without one, the connection fails as well
        return
    addresses = [ipaddress.ip_address(address[0]) for *_, address in found]
    addresses = [getattr(address, "ipv4_mapped", None) or address for address in addresses]
    if inner := [str(address) for address in addresses if not address.is_global]:
        raise RefusedError(f"{where}, which is the internal address {inner[0]}")


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """The partial file, open for appending and locked; waits while another process holds it.

    If nothing came, it goes again.
    """
    while True:
        stream = part.open("a+b")
        fcntl.flock(stream, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # removed or renamed, and may be at any moment of this
            if os.path.samestat(os.fstat(stream.fileno()), part.stat()):
                break
        stream.close()  # what this one waited for is not the partial file any more
    with stream:
        try:
            yield stream
        except BaseException:
            if not stream.seek(0, os.SEEK_END):
                part.unlink(missing_ok=True)
            raise
