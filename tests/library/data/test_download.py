"""Downloads from a real server on this machine: resumed, checked, bounded, and explained when they fail."""

import asyncio
import hashlib
import os
import shutil
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from trueshift.contract import ContractError
from trueshift.data.download import Limits, RefusedError, _check_redirect, fetch
from trueshift.data.local_files import LocalFile, checksum, ensure

CONTENT = bytes(range(256)) * 12_000  # 3 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
QUICK = {"pause": 0, "stall": 0.3, "total": 5}


class Server(ThreadingHTTPServer):
    """Serves CONTENT. ``cuts``: how many answers break off halfway; ``ranges``: the Range headers received."""

    status = 200
    cuts = 0
    honours_range = True
    content = CONTENT
    target = ""  # where it redirects to
    surplus: int | None = 0  # bytes announced beyond those sent; None: no size is announced
    drips = ""  # what comes byte by byte without an end: head or body
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.asked: list[str] = []
        self.ending = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/set.h5ad"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        self.server.asked.append(self.path)
        content = self.server.content
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.honours_range else 0
        if self.server.target:
            self.send_response(302)
            self.send_header("Location", self.server.target)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.server.status != 200:
            self.send_response(self.server.status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.server.drips == "head":
            self.drip(b"HTTP/1.1 200 OK\r\nX: ")
            return
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.server.surplus is not None:
            self.send_header("Content-Length", str(len(content) - start + self.server.surplus))
        self.end_headers()
        if self.server.drips == "body":
            self.drip(content[start : start + 1000])
            return
        end = len(content)
        if self.server.cuts:
            self.server.cuts -= 1
            end = start + (end - start) // 2
        self.wfile.write(content[start:end])
        self.wfile.flush()

    def drip(self, first: bytes) -> None:
        """Sends some bytes, and then one every 50 ms."""
        try:
            self.wfile.write(first)
            while not self.server.ending.wait(0.05):
                self.wfile.write(b"x")
        except OSError:
            pass  # the client has gone, as it should

    def log_message(self, *_: object) -> None:
        pass


def serving() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.ending.set()
    running.shutdown()
    thread.join()
    running.server_close()


server = pytest.fixture(serving, name="server")
other = pytest.fixture(serving, name="other")


def entry(server: Server, **more: str) -> dict[str, str]:
    return {"path": "{data}/folder/set.h5ad", "url": server.url, **more}


def fetched(entry: dict[str, str], folder: Path, **limits: float) -> LocalFile:
    return fetch(entry, folder, limits=Limits(**{**QUICK, **limits}))  # type: ignore[arg-type]


def left(folder: Path) -> list[str]:
    """The files that are where the file was to go."""
    return sorted(path.name for path in (folder / "folder").iterdir())


def test_fetches_to_the_data_folder_and_checks(server: Server, tmp_path: Path) -> None:
    file = fetched(entry(server, sha256=SHA256.upper()), tmp_path)
    assert file.path == tmp_path / "folder" / "set.h5ad"
    assert file.path.read_bytes() == CONTENT
    assert (file.origin, file.checksum) == (server.url, f"sha256:{SHA256}")
    assert [path.name for path in file.path.parent.iterdir()] == ["set.h5ad"]


def test_a_file_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        assert fetched(entry(server, md5=MD5), tmp_path).checksum == f"md5:{MD5}"
    assert server.ranges == [None]


def test_a_broken_transfer_is_resumed_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cuts = 2
    file = fetched(entry(server, sha256=SHA256), tmp_path)
    assert file.path.read_bytes() == CONTENT
    half = len(CONTENT) // 2
    assert server.ranges == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]


def test_a_partial_file_of_an_earlier_run_is_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "set.h5ad.part").write_bytes(CONTENT[:1000])
    assert fetched(entry(server, sha256=SHA256), tmp_path).path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


@pytest.mark.parametrize("surplus", [b"", b"of another version"])
def test_a_partial_file_as_long_as_the_remote_or_longer(server: Server, tmp_path: Path, surplus: bytes) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "set.h5ad.part").write_bytes(CONTENT + surplus)
    assert fetched(entry(server, sha256=SHA256), tmp_path).path.read_bytes() == CONTENT


def test_a_server_without_range_starts_over(server: Server, tmp_path: Path) -> None:
    server.honours_range, server.cuts = False, 1
    assert fetched(entry(server, sha256=SHA256), tmp_path).path.read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_wrong_checksum_names_both_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    declared = "0" * 64
    with pytest.raises(ContractError) as error:
        fetched(entry(server, sha256=declared), tmp_path)
    for part in (server.url, SHA256, declared, "removed"):
        assert part in str(error.value)
    assert list((tmp_path / "folder").iterdir()) == []


def test_no_checksum_is_refused_with_the_one_to_paste(server: Server, tmp_path: Path) -> None:
    for _ in range(2):  # the second time the file is there already
        with pytest.raises(ContractError, match=f"sha256: {SHA256}"):
            fetched(entry(server), tmp_path)
    assert len(server.ranges) == 1


def test_offline_says_which_file_to_place_where(tmp_path: Path) -> None:
    closed = Server()
    closed.server_close()
    with pytest.raises(ContractError) as error:
        fetched(entry(closed, md5=MD5), tmp_path)
    for part in (closed.url, f"md5:{MD5}", str(tmp_path / "folder" / "set.h5ad")):
        assert part in str(error.value)
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (202, 4), (503, 4)])
def test_an_answer_that_is_not_the_file(server: Server, tmp_path: Path, status: int, requests: int) -> None:
    server.status = status
    with pytest.raises(ContractError, match=str(status)):
        fetched(entry(server, md5=MD5), tmp_path)
    assert len(server.ranges) == requests


def test_what_came_is_kept_when_it_breaks_for_good(server: Server, tmp_path: Path) -> None:
    server.cuts = 1000
    with pytest.raises(ContractError, match=r"set\.h5ad\.part"):
        fetched(entry(server, md5=MD5), tmp_path)
    kept = (tmp_path / "folder" / "set.h5ad.part").stat().st_size
    assert 0 < kept < len(CONTENT)
    server.cuts = 0
    assert fetched(entry(server, md5=MD5), tmp_path).path.read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={kept}-"


def test_two_at_a_time_fetch_once(server: Server, tmp_path: Path) -> None:
    found: list[str] = []

    def fetch() -> None:
        found.append(fetched(entry(server, sha256=SHA256), tmp_path).checksum)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [f"sha256:{SHA256}"] * 4
    assert server.ranges == [None]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["set.h5ad"]


def test_the_partial_file_may_go_before_it_is_locked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, stat = [0], Path.stat

    def stat_of_what_goes(path: Path, **options: bool) -> os.stat_result:
        if path.suffix == ".part":
            looks[0] += 1
            if looks[0] == 1:
                path.unlink()  # as another process does that gives up
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", stat_of_what_goes)
    assert fetched(entry(server, sha256=SHA256), tmp_path).checksum == f"sha256:{SHA256}"
    assert looks[0]


def test_a_placed_file_with_another_checksum_is_kept_but_refused(tmp_path: Path) -> None:
    (tmp_path / "set.h5ad").write_bytes(b"other")
    with pytest.raises(ContractError, match=f"{checksum(tmp_path / 'set.h5ad')}, declared is sha256:{SHA256}"):
        ensure({"path": "{data}/set.h5ad", "sha256": SHA256}, tmp_path)
    assert (tmp_path / "set.h5ad").exists()


def test_a_missing_file_without_address(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"no such file; register at example\.org"):
        ensure({"path": "{data}/set.h5ad", "obtain": "register at example.org"}, tmp_path)
    with pytest.raises(ContractError, match=r"set\.h5ad: no such file"):
        ensure("{data}/set.h5ad", tmp_path)
    with pytest.raises(ContractError, match="unknown setting 'sha265'; did you mean 'sha256'"):
        ensure({"path": "x", "sha265": ""}, tmp_path)
    with pytest.raises(ContractError, match="no path"):
        ensure({"url": "http://127.0.0.1/x"}, tmp_path)


def test_a_missing_file_with_an_address_is_an_affair_of_the_rule_fetch(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ContractError) as error:
        ensure(entry(server, sha256=SHA256), tmp_path)
    for part in (server.url, str(tmp_path / "folder/set.h5ad"), "--forcerun fetch"):
        assert part in str(error.value)
    assert server.ranges == []


# --- bounds ---------------------------------------------------------------------------------------------


def test_only_the_web_is_fetched(tmp_path: Path) -> None:
    for url in ("ftp://example.org/set.h5ad", "file:///etc/passwd"):
        with pytest.raises(ContractError, match=f"{url}: only http and https"):
            fetched({"path": "{data}/set.h5ad", "url": url}, tmp_path)


@pytest.mark.parametrize("drips", ["head", "body"])
def test_a_server_that_drips_ends_with_what_came(server: Server, tmp_path: Path, drips: str) -> None:
    server.drips = drips
    start = time.monotonic()
    with pytest.raises(ContractError, match=r"65536 bytes came in 0\.2 s") as error:
        fetched(entry(server, md5=MD5), tmp_path, stall=0.2)
    assert time.monotonic() - start < 4
    assert server.url in str(error.value) and str(tmp_path / "folder/set.h5ad") in str(error.value)
    assert len(server.ranges) == 4
    server.drips = ""
    (tmp_path / "folder").mkdir(exist_ok=True)
    for part in (tmp_path / "folder").iterdir():
        part.write_bytes(part.read_bytes()[:1000])  # without the drops, which were made up
        assert drips == "body"
    assert fetched(entry(server, md5=MD5), tmp_path).path.read_bytes() == CONTENT
    assert server.ranges[-1] == ("bytes=1000-" if drips == "body" else None)


def test_a_server_that_never_answers(tmp_path: Path) -> None:
    silent = Server()  # the system takes the connection, nobody serves it
    try:
        with pytest.raises(ContractError, match=f"{silent.url}: .*0\\.1 s"):
            fetched(entry(silent, md5=MD5), tmp_path, stall=0.1)
    finally:
        silent.server_close()
    assert left(tmp_path) == []


def test_all_attempts_together_end(server: Server, tmp_path: Path) -> None:
    server.drips = "body"
    start = time.monotonic()
    with pytest.raises(ContractError, match=r"not finished within 0\.5 s\..* bytes are in .*set\.h5ad\.part"):
        fetched(entry(server, md5=MD5), tmp_path, step=1, total=0.5)
    assert time.monotonic() - start < 3


def test_more_is_announced_than_sent(server: Server, tmp_path: Path) -> None:
    server.surplus = 1000
    with pytest.raises(ContractError, match="checksum") as error:  # resumed, and then the server says that is all
        fetched(entry(server, md5="0" * 32), tmp_path)
    assert server.ranges == [None, f"bytes={len(CONTENT)}-"]
    assert f"md5:{MD5}" in str(error.value)
    assert left(tmp_path) == []
    server.honours_range = False
    with pytest.raises(ContractError, match=f"{len(CONTENT)} bytes are in"):
        fetched(entry(server, md5=MD5), tmp_path)


def test_less_is_announced_than_sent(server: Server, tmp_path: Path) -> None:
    server.surplus = -1000
    with pytest.raises(ContractError, match=f"{server.url}: checksum of what came"):
        fetched(entry(server, md5=MD5), tmp_path)
    assert left(tmp_path) == []


def test_a_part_that_is_too_short_is_no_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/set.h5ad.part").write_bytes(CONTENT[:1000])
    server.surplus = -1000
    came = len(CONTENT) - 1000
    with pytest.raises(ContractError, match=f"{server.url}: .*{came} of {len(CONTENT)} bytes"):
        fetched(entry(server, md5=MD5), tmp_path)
    server.surplus = 0
    assert fetched(entry(server, md5=MD5), tmp_path).path.read_bytes() == CONTENT
    assert server.ranges[:2] == ["bytes=1000-", f"bytes={came}-"]


@pytest.mark.parametrize("surplus", [0, None])
def test_no_more_than_the_bound(server: Server, tmp_path: Path, surplus: int | None) -> None:
    server.surplus = surplus
    with pytest.raises(ContractError, match=f"{server.url}: .* 1000000 bytes"):
        fetched(entry(server, md5=MD5), tmp_path, max_bytes=1_000_000)
    assert len(server.ranges) == 1
    assert left(tmp_path) == []


@pytest.mark.parametrize("surplus", [0, None])
def test_no_more_than_the_disk_holds(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, surplus: int | None
) -> None:
    server.surplus = surplus
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9_000_000, 6_500_000, 2_500_000))
    with pytest.raises(ContractError, match=f"{tmp_path}/folder has room for 2000000 bytes") as error:
        fetched(entry(server, md5=MD5), tmp_path, reserve=500_000)
    assert server.url in str(error.value)
    kept = [(tmp_path / "folder" / name).stat().st_size for name in left(tmp_path)]
    assert kept == [] if surplus == 0 else 1_900_000 < kept[0] <= 2_000_000
    monkeypatch.undo()
    assert fetched(entry(server, md5=MD5), tmp_path).path.read_bytes() == CONTENT
    assert server.ranges[-1] == (f"bytes={kept[0]}-" if kept else None)


def test_what_is_there_already_needs_no_room_twice(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.honours_range = False
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/set.h5ad.part").write_bytes(CONTENT[:2_000_000])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9_000_000, 7_500_000, 1_500_000))
    assert fetched(entry(server, md5=MD5), tmp_path, reserve=0).path.read_bytes() == CONTENT


def test_the_remote_changed_since_the_partial_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/set.h5ad.part").write_bytes(b"of another version")
    with pytest.raises(ContractError, match="removed"):
        fetched(entry(server, sha256=SHA256), tmp_path)
    assert left(tmp_path) == []
    assert fetched(entry(server, sha256=SHA256), tmp_path).path.read_bytes() == CONTENT


def test_without_a_checksum_nothing_is_resumed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/set.h5ad.part").write_bytes(b"of another version")
    server.cuts = 1
    with pytest.raises(ContractError, match=f"sha256: {SHA256}"):
        fetched(entry(server), tmp_path)
    assert server.ranges == [None, None]


# --- where a redirect may lead --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data/",
        "http://localhost:{port}/x",
    ],
)
def test_a_redirect_that_leads_elsewhere(server: Server, other: Server, tmp_path: Path, target: str) -> None:
    server.target = target.format(port=other.server_port)
    with pytest.raises(ContractError) as error:
        fetched(entry(server, md5=MD5), tmp_path)
    for part in (server.url, "redirected to " + target.split("//")[0]):
        assert part in str(error.value)
    assert (len(server.ranges), other.ranges, left(tmp_path)) == (1, [], [])


def test_a_redirect_within_the_host_that_was_named(server: Server, other: Server, tmp_path: Path) -> None:
    server.target, other.cuts = other.url, 1
    assert fetched(entry(server, md5=MD5), tmp_path).path.read_bytes() == CONTENT
    assert other.ranges == [None, f"bytes={len(CONTENT) // 2}-"] == server.ranges


def test_a_redirect_in_a_circle(server: Server, tmp_path: Path) -> None:
    server.target = server.url
    with pytest.raises(ContractError, match=f"{server.url}: .*10 redirects"):
        fetched(entry(server, md5=MD5), tmp_path)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("https://8.8.8.8", "http://8.8.8.8"),
        ("http://8.8.8.8", "http://10.0.0.1"),
        ("http://8.8.8.8", "https://127.0.0.1"),
        ("http://8.8.8.8", "http://2130706433"),
        ("http://8.8.8.8", "http://[::1]"),
        ("http://8.8.8.8", "http://[fe80::1]"),
        ("http://8.8.8.8", "http://[::ffff:169.254.169.254]"),
        ("http://8.8.8.8", "gopher://8.8.8.8"),
    ],
)
def test_redirects_that_are_refused(source: str, target: str) -> None:
    with pytest.raises(RefusedError, match="redirected to"):
        asyncio.run(_check_redirect(httpx.URL(source), httpx.URL(target), "8.8.8.8"))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("http://8.8.8.8", "https://9.9.9.9"),
        ("http://10.0.0.1", "http://10.0.0.1:8080"),
        ("https://10.0.0.1", "https://[2606:4700:4700::1111]"),
    ],
)
def test_redirects_that_are_followed(source: str, target: str) -> None:
    asyncio.run(_check_redirect(httpx.URL(source), httpx.URL(target), httpx.URL(source).host))


def test_a_proxy_of_the_environment_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/set.h5ad"))
    address = "http://data.invalid/set.h5ad"
    assert fetched(entry(server, md5=MD5) | {"url": address}, tmp_path).path.read_bytes() == CONTENT
    assert server.asked == [address]
    monkeypatch.setenv("http_proxy", "gopher://127.0.0.1")
    with pytest.raises(ContractError, match="gopher"):
        fetched(entry(server, md5=MD5) | {"url": address, "path": "{data}/another"}, tmp_path)
