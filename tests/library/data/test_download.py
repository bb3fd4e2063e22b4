"""Downloads from a real server on this machine: resumed, checked, and explained when they fail."""

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from trueshift.contract import ContractError
from trueshift.data.download import checksum, ensure

CONTENT = bytes(range(256)) * 12_000  # 3 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT. ``cuts``: how many answers break off halfway; ``ranges``: the Range headers received."""

    status = 200
    cuts = 0
    honours_range = True
    content = CONTENT

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/set.h5ad"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        content = self.server.content
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.honours_range else 0
        if self.server.status != 200:
            self.send_response(self.server.status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if self.server.cuts:
            self.server.cuts -= 1
            end = start + (end - start) // 2
        self.wfile.write(content[start:end])
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def entry(server: Server, **more: str) -> dict[str, str]:
    return {"path": "{data}/folder/set.h5ad", "url": server.url, **more}


def test_fetches_to_the_data_folder_and_checks(server: Server, tmp_path: Path) -> None:
    file = ensure(entry(server, sha256=SHA256.upper()), tmp_path, pause=0)
    assert file.path == tmp_path / "folder" / "set.h5ad"
    assert file.path.read_bytes() == CONTENT
    assert (file.origin, file.checksum) == (server.url, f"sha256:{SHA256}")
    assert [path.name for path in file.path.parent.iterdir()] == ["set.h5ad"]


def test_a_file_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        assert ensure(entry(server, md5=MD5), tmp_path, pause=0).checksum == f"md5:{MD5}"
    assert server.ranges == [None]


def test_a_broken_transfer_is_resumed_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cuts = 2
    file = ensure(entry(server, sha256=SHA256), tmp_path, pause=0)
    assert file.path.read_bytes() == CONTENT
    half = len(CONTENT) // 2
    assert server.ranges == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]


def test_a_partial_file_of_an_earlier_run_is_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "set.h5ad.part").write_bytes(CONTENT[:1000])
    assert ensure(entry(server, sha256=SHA256), tmp_path, pause=0).path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


@pytest.mark.parametrize("surplus", [b"", b"of another version"])
def test_a_partial_file_as_long_as_the_remote_or_longer(server: Server, tmp_path: Path, surplus: bytes) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "set.h5ad.part").write_bytes(CONTENT + surplus)
    assert ensure(entry(server, sha256=SHA256), tmp_path, pause=0).path.read_bytes() == CONTENT


def test_a_server_without_range_starts_over(server: Server, tmp_path: Path) -> None:
    server.honours_range, server.cuts = False, 1
    assert ensure(entry(server, sha256=SHA256), tmp_path, pause=0).path.read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_wrong_checksum_names_both_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    declared = "0" * 64
    with pytest.raises(ContractError) as error:
        ensure(entry(server, sha256=declared), tmp_path, pause=0)
    for part in (server.url, SHA256, declared, "removed"):
        assert part in str(error.value)
    assert list((tmp_path / "folder").iterdir()) == []


def test_no_checksum_is_refused_with_the_one_to_paste(server: Server, tmp_path: Path) -> None:
    for _ in range(2):  # the second time the file is there already
        with pytest.raises(ContractError, match=f"sha256: {SHA256}"):
            ensure(entry(server), tmp_path, pause=0)
    assert len(server.ranges) == 1


def test_offline_says_which_file_to_place_where(tmp_path: Path) -> None:
    closed = Server()
    closed.server_close()
    with pytest.raises(ContractError) as error:
        ensure(entry(closed, md5=MD5), tmp_path, pause=0)
    for part in (closed.url, f"md5:{MD5}", str(tmp_path / "folder" / "set.h5ad")):
        assert part in str(error.value)
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (202, 4), (503, 4)])
def test_an_answer_that_is_not_the_file(server: Server, tmp_path: Path, status: int, requests: int) -> None:
    server.status = status
    with pytest.raises(ContractError, match=str(status)):
        ensure(entry(server, md5=MD5), tmp_path, pause=0)
    assert len(server.ranges) == requests


def test_what_came_is_kept_when_it_breaks_for_good(server: Server, tmp_path: Path) -> None:
    server.cuts = 1000
    with pytest.raises(ContractError, match=r"set\.h5ad\.part"):
        ensure(entry(server, md5=MD5), tmp_path, pause=0)
    kept = (tmp_path / "folder" / "set.h5ad.part").stat().st_size
    assert 0 < kept < len(CONTENT)
    server.cuts = 0
    assert ensure(entry(server, md5=MD5), tmp_path, pause=0).path.read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={kept}-"


def test_two_at_a_time_fetch_once(server: Server, tmp_path: Path) -> None:
    found: list[str] = []

    def fetch() -> None:
        found.append(ensure(entry(server, sha256=SHA256), tmp_path, pause=0).checksum)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [f"sha256:{SHA256}"] * 4
    assert server.ranges == [None]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["set.h5ad"]


@pytest.mark.parametrize("look", [1, 2])
def test_the_partial_file_may_go_while_it_is_looked_at(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    looks, stat = [0], Path.stat

    def stat_of_what_goes(path: Path, **options: bool) -> os.stat_result:
        if path.suffix == ".part":
            looks[0] += 1
            if looks[0] == look:
                path.unlink()  # as another process does that gives up
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", stat_of_what_goes)
    assert ensure(entry(server, sha256=SHA256), tmp_path, pause=0).checksum == f"sha256:{SHA256}"
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
    with pytest.raises(ContractError, match="only http and https"):
        ensure({"path": "{data}/set.h5ad", "url": "ftp://example.org/set.h5ad"}, tmp_path)
