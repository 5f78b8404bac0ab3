"""One file over HTTP into the cache: resumed where it was, checked while it comes, a blob when it is whole.

A download writes to CACHE/partial/KEY.HOST.PID. KEY says which bytes these are (the checksum, or URL and validator), so
whoever finds the file of a dead process goes on with it; taking it over is a rename, which only one can win. No locks.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import RunError, UserError
from data_pipeline.parts.cache import adopt, folder

CHUNK = 1 << 20
ATTEMPTS = 6
"""In a row, without a new byte."""
CONNECT_SECONDS, SILENCE_SECONDS = 20.0, 60.0
STALE_SECONDS = 600.0
"""Ten times the longest silence: whoever wrote to a partial file before that is dead, wherever it ran."""
FIRST_DELAY, MOST_DELAY = 1.0, 30.0
"""Seconds before an attempt after one that failed: doubled each time."""
AGAIN = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Wanted:
    """A file of a server: what it must be, and with what it is asked for."""

    label: str
    url: str
    key: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    validator: str | None = None
    """ETag or Last-Modified of the bytes begun; a server that has others begins anew."""
    token: str | None = None


class _Rest(Exception):
    """An attempt that failed for a reason that may pass. The text names it."""


class _Growing:
    """The partial file and the checksums of what it holds."""

    def __init__(self, path: Path, size: int | None):
        self.path, self.total = path, size
        self.stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664), "r+b")
        self.size = 0
        self._hashes()
        while data := self.stream.read(CHUNK):
            self._hashed(data)
        if size is not None and self.size > size:
            self.restart()

    def _hashes(self) -> None:
        self.sha256, self.sha1, self.size = hashlib.sha256(), hashlib.sha1(usedforsecurity=False), 0
        self.sha1.update(f"blob {self.total}\0".encode())  # as git names a file

    def _hashed(self, data: bytes) -> None:
        self.sha256.update(data)
        if self.total is not None and self.total <= CHUNK * 64:  # git's sum is for small files: large ones have sha256
            self.sha1.update(data)
        self.size += len(data)

    def write(self, data: bytes) -> None:
        self.stream.write(data)
        self._hashed(data)

    def restart(self) -> None:
        self.stream.seek(0)
        self.stream.truncate()
        self._hashes()

    def close(self) -> None:
        os.fsync(self.stream.fileno())
        self.stream.close()


async def bring(wanted: Wanted, session: Any, moved: Callable[[int], Any]) -> tuple[Path, str, int]:
    """The blob of a file, its sha256 and size. `moved` hears of bytes gained (or, begun anew, lost).

    Raises:
        UserError: the server refuses it, or its bytes are not those that were promised.
        RunError: it did not come; what came is kept for the next time.
    """
    with _partial(wanted) as path:
        growing = _Growing(path, wanted.size)
        if not (wanted.sha256 or wanted.git_sha1 or wanted.validator):
            growing.restart()  # nobody can say whether these are the same bytes
        moved(growing.size)
        try:
            await _grow(wanted, session, growing, moved)
            if not _right(wanted, growing):  # perhaps what another process left was wrong: once more, from nothing
                moved(-growing.size)
                growing.restart()
                await _grow(wanted, session, growing, moved)
        finally:
            growing.close()
        if not _right(wanted, growing):
            path.unlink()
            raise UserError(
                f"{wanted.label} is not what was promised (sha256 {growing.sha256.hexdigest()[:16]}..., {growing.size} bytes; "
                f"wanted {_promise(wanted)}): nothing of it is kept; ask whoever keeps {_host(wanted.url)}"
            )
        sha256 = growing.sha256.hexdigest()
        return adopt(path, sha256), sha256, growing.size


async def _grow(wanted: Wanted, session: Any, growing: _Growing, moved: Callable[[int], Any]) -> None:
    attempt, delay = 0, FIRST_DELAY
    while wanted.size is None or growing.size < wanted.size:
        before = growing.size
        try:
            await _attempt(wanted, session, growing, moved)
            if wanted.size is None or growing.size >= wanted.size:
                return
            reason = "the connection ended early"
        except _Rest as error:
            reason = str(error)
        attempt, delay = (0, FIRST_DELAY) if growing.size > before else (attempt + 1, min(MOST_DELAY, delay * 2))
        if attempt >= ATTEMPTS:
            raise RunError(
                f"{wanted.label} does not come from {_host(wanted.url)} ({reason}): {growing.size:,} bytes of it are kept, the "
                "same command goes on"
            )
        await asyncio.sleep(delay)


async def _attempt(wanted: Wanted, session: Any, growing: _Growing, moved: Callable[[int], Any]) -> None:
    import aiohttp

    headers = {"Accept-Encoding": "identity"}
    if wanted.token is not None:
        headers["Authorization"] = f"Bearer {wanted.token}"  # aiohttp drops it where a redirect leads to another origin
    if growing.size:
        headers["Range"] = f"bytes={growing.size}-"
        if wanted.validator is not None:
            headers["If-Range"] = wanted.validator
    try:
        async with session.get(wanted.url, headers=headers) as response:
            _check_status(wanted, response.status)
            if response.status == 416:
                moved(-growing.size)
                growing.restart()
                raise _Rest("it has fewer bytes than were begun")
            if response.status == 200 and growing.size:  # it knows no ranges, or has other bytes now
                moved(-growing.size)
                growing.restart()
            if response.status == 206 and _first(response) != growing.size:
                raise _Rest("it answered with another range")
            async for data in response.content.iter_chunked(CHUNK):
                if wanted.size is not None and growing.size + len(data) > wanted.size:
                    raise UserError(
                        f"{wanted.label} is longer than the {wanted.size:,} bytes that were promised: not kept"
                    )
                growing.write(data)
                moved(len(data))
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise _Rest(type(error).__name__ if not str(error) else str(error).splitlines()[0][:120]) from None


def _check_status(wanted: Wanted, status: int) -> None:
    if status in (200, 206, 416):
        return
    if status in AGAIN:
        raise _Rest(f"HTTP {status}")
    if status in (401, 403):
        raise UserError(
            f"{_host(wanted.url)} does not give {wanted.label} (HTTP {status}): set HF_TOKEN to one that may read it"
        )
    raise UserError(f"{wanted.label} cannot be fetched from {_host(wanted.url)} (HTTP {status}): check the name")


def _first(response: Any) -> int:
    """Where the bytes of a partial answer begin; -1: it does not say."""
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else -1


def _right(wanted: Wanted, growing: _Growing) -> bool:
    if wanted.size is not None and growing.size != wanted.size:
        return False
    if wanted.sha256 is not None:
        return growing.sha256.hexdigest() == wanted.sha256
    return wanted.git_sha1 is None or growing.sha1.hexdigest() == wanted.git_sha1


def _promise(wanted: Wanted) -> str:
    sums = f"sha256 {wanted.sha256[:16]}..." if wanted.sha256 else f"git {wanted.git_sha1}"
    return f"{sums}, {wanted.size} bytes"


def _host(url: str) -> str:
    return url.split("/")[2].rsplit("@", 1)[-1]


# ---- partial files --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _partial(wanted: Wanted) -> Iterator[Path]:
    """A partial file of our own, with what a dead process left of these bytes."""
    place = folder("partial")
    mine = place / f"{wanted.key}.{_here()}.{os.getpid()}"
    for other in sorted(place.glob(f"{wanted.key}.*")):
        if other == mine or _dead(other):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.replace(other, mine)
                break
    yield mine


def _dead(path: Path) -> bool:
    """Whether it is ours to take: nobody writes to it any more, and it is no other user's."""
    _, host, number = path.name.rsplit(".", 2)
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    if found.st_uid != os.getuid():
        return False
    return not _lives(int(number)) if host == _here() else time.time() - found.st_mtime > STALE_SECONDS


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _here() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
