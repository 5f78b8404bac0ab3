"""Samples over plain HTTP: with ranges or without, behind answers that are wrong for a while."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from configs.data import ReadConfig
from configs.errors import RunError, UserError
from data_pipeline.stream.read.dataset import BadSample, Dataset, StoredSample

QUICK = ReadConfig(retry_seconds=20.0, hedge_seconds=5.0)
Spoil = Callable[[int, bytes], tuple[int, bytes] | None]


class Server(ThreadingHTTPServer):
    """Serves a folder. `spoil(number of the request for a tar, body)` may replace status and body."""

    daemon_threads = True
    folder: Path
    ranges = True
    spoil: Spoil | None = None
    asked = 0
    lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, head: bool) -> None:
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            return self._send(404, b"", head)
        data, status, span = path.read_bytes(), 200, self.headers.get("Range")
        if span and self.server.ranges:
            first, last = span.removeprefix("bytes=").split("-")
            if int(first) >= len(data):
                return self._send(416, b"", head)
            data, status = data[int(first) : int(last) + 1], 206
        if path.suffix == ".tar" and not head:
            with self.server.lock:
                self.server.asked += 1
                number = self.server.asked
            spoiled = self.server.spoil(number, data) if self.server.spoil else None
            status, data = spoiled or (status, data)
        self._send(status, data, head)

    def _send(self, status: int, data: bytes, head: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if not head:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.folder = folder
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def same_as(folder: Path, found: list[StoredSample | BadSample]) -> bool:
    here = Dataset(str(folder)).read_many(range(60))
    assert all(isinstance(what, StoredSample) for what in found), [
        what for what in found if isinstance(what, BadSample)
    ]
    return [(bytes(a.body), list(map(bytes, a.images))) for a in found] == [  # type: ignore[union-attr]
        (bytes(b.body), list(map(bytes, b.images)))  # type: ignore[union-attr]
        for b in here
    ]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_with_and_without_ranges(ranges: bool, folder: Path, server: Server) -> None:
    server.ranges = ranges
    here, there = Dataset(str(folder)), Dataset(url(server), QUICK)
    assert bytes(there.read(37).body) == bytes(here.read(37).body), "out of the middle of a tar"
    assert same_as(folder, there.read_many(range(60)))


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_answers_that_pass_are_asked_again(status: int, folder: Path, server: Server) -> None:
    server.spoil = lambda number, data: (status, b"") if number <= 4 else None
    assert same_as(folder, Dataset(url(server), QUICK).read_many(range(60)))


def test_a_wrong_answer_is_no_bad_sample(folder: Path, server: Server) -> None:
    """Zeros in place of each shard's range, once: what is of the bytes comes again, what is of the way does not."""
    server.spoil = lambda number, data: (206, bytes(len(data))) if number <= 3 else None
    assert same_as(folder, Dataset(url(server), QUICK).read_many(range(60)))


def test_short_answers_are_no_end_of_a_file(folder: Path, server: Server) -> None:
    """Half of a range, several times over: the file's size says that it goes on."""
    server.spoil = lambda number, data: (206, data[: len(data) // 2]) if number <= 9 else None
    assert same_as(folder, Dataset(url(server), QUICK).read_many(range(60)))


def test_a_refusal_ends_the_job_at_once(server: Server) -> None:
    server.spoil = lambda number, data: (403, b"")
    start = time.monotonic()
    with pytest.raises(RunError, match=r"00000\.tar: the server answers 403: check the address and the rights"):
        Dataset(url(server), QUICK).read(3)
    assert server.asked == 1 and time.monotonic() - start < QUICK.retry_seconds


def test_a_tar_that_ends_early_costs_what_is_behind(folder: Path, server: Server, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    whole, cut_at = (folder / "00001.tar").read_bytes(), Dataset(str(folder)).place(30).start + 700
    (tmp_path / "00001.tar").write_bytes(whole[:cut_at])
    server.folder = tmp_path
    found = Dataset(url(server), QUICK).read_many(range(60))
    bad = [number for number, what in enumerate(found) if isinstance(what, BadSample)]
    assert bad == list(range(30, 40)), "the ten samples from the cut to the end of its shard"


def test_what_is_missing_is_said(folder: Path, server: Server, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.is_file() and path.name not in ("00000.index.parquet", "00001.tar"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    server.folder = tmp_path
    with pytest.raises(UserError, match=r"00000\.index\.parquet is missing"):
        Dataset(url(server), QUICK).read_many([0, 1])
    with pytest.raises(RunError, match=r"00001\.tar is gone"):
        Dataset(url(server), QUICK).read_many([25])
