"""The body of an answer -> bytes, never more than the cap, neither as they travel nor unpacked.

No picture is asked for in a content encoding, but some servers send gzip or deflate all the same. Such a body is
unpacked twice: once to see how long it gets, keeping nothing, then for good. So a bomb costs no memory.
"""

import asyncio
import zlib
from collections.abc import Iterator

import aiohttp

from data_pipeline.ingest.fetch.budget import Budget
from data_pipeline.ingest.fetch.failure import Failed
from data_pipeline.ingest.fetch.threads import Threads

SMALL = 2**20
"""Bodies up to here are bounded by the number of pictures in flight; larger ones ask the budget for room."""

_STEP = 2**16
_PACKED = {"gzip", "x-gzip", "deflate"}
_FOREIGN = {"br", "zstd", "compress", "x-compress", "dcb", "dcz"}


class Room:
    """What one picture holds of the budget, and its clock, which stands while it waits for room."""

    def __init__(self, budget: Budget, clock: asyncio.Timeout) -> None:
        self._budget, self._clock = budget, clock
        self.held = 0

    async def need(self, size: int) -> None:
        """Have room for `size` bytes in all. What was held is given back first, so that nobody waits holding some."""
        if size <= max(SMALL, self.held):
            return
        self.release()
        loop = asyncio.get_running_loop()
        left = (self._clock.when() or loop.time()) - loop.time()
        self._clock.reschedule(None)
        try:
            self.held = await self._budget.take(size)
        finally:
            self._clock.reschedule(loop.time() + max(left, 0.0))

    def release(self) -> None:
        if self.held:
            self._budget.give_back(self.held)
            self.held = 0


async def read_body(response: aiohttp.ClientResponse, cap: int, room: Room, threads: Threads) -> bytes:
    """The whole body, unpacked.

    Raises:
        Failed: too_large, truncated, content_encoding.
        aiohttp.ClientError: the connection broke.
    """
    headers = response.headers
    length = -1
    if "Content-Length" in headers and "Transfer-Encoding" not in headers:
        length = response.content_length or 0
    if length > cap:
        raise too_large(cap)
    if 0 <= length <= SMALL:
        body = await response.content.read()
    else:
        body = await _read_counted(response.content, length, cap, room)
    if "Content-Encoding" not in headers:
        return body
    return await _unpacked(body, headers.getall("Content-Encoding"), cap, room, threads)


def too_large(cap: int) -> Failed:
    return Failed("too_large", f"more than {cap} bytes")


async def _read_counted(stream: aiohttp.StreamReader, length: int, cap: int, room: Room) -> bytes:
    if length > SMALL:
        await room.need(length)
    pieces: list[bytes] = []
    count = 0
    while piece := await stream.readany():
        pieces.append(piece)
        count += len(piece)
        if count > cap:
            raise too_large(cap)
        if count > SMALL:
            await room.need(length if length >= 0 else cap)
    return b"".join(pieces)


async def _unpacked(body: bytes, said: list[str], cap: int, room: Room, threads: Threads) -> bytes:
    codings = [word for word in ",".join(said).replace(" ", "").lower().split(",") if word not in ("", "identity")]
    foreign = [word for word in codings if word in _FOREIGN]
    packed = [word for word in codings if word in _PACKED]
    if foreign or len(packed) > 1:
        raise Failed("content_encoding", f"packed as {', '.join(foreign or packed)}, which was not asked for")
    if not packed or (packed[0] != "deflate" and body[:2] != b"\x1f\x8b"):
        return body  # words that mean nothing here, and bodies that only claim to be gzip
    size = await asyncio.wrap_future(threads.submit(lambda: _count(body, packed[0], cap)))
    await room.need(len(body) + size)
    return await asyncio.wrap_future(threads.submit(lambda: b"".join(_unpack(body, packed[0]))))


def _count(body: bytes, coding: str, cap: int) -> int:
    count = 0
    for piece in _unpack(body, coding):
        count += len(piece)
        if count > cap:
            raise too_large(cap)
    return count


def _unpack(body: bytes, coding: str) -> Iterator[bytes]:
    """Pieces of at most _STEP bytes. `deflate` means zlib, but bare deflate is sent under that name too."""
    window = 31 if coding != "deflate" else (15 if body[:1] and body[0] & 15 == 8 else -15)
    engine = zlib.decompressobj(window)
    try:
        for start in range(0, len(body), _STEP):
            piece = body[start : start + _STEP]
            while piece and not engine.eof:
                yield engine.decompress(piece, _STEP)
                piece = engine.unconsumed_tail
        while not engine.eof:  # what is left inside the engine
            rest = engine.decompress(b"", _STEP)
            if not rest:
                raise Failed("truncated", f"the {coding} body ends before it is whole", retryable=True)
            yield rest
    except zlib.error:
        raise Failed("content_encoding", f"not {coding} although it says so") from None
