"""Pictures that are files: a local path, or an object of a store, whole or (offset, size) -> bytes, or `Failed`.

A local path is one that the source vouches for (found in a folder, or below `image_root`). Of objects, a URL out of
data may name those of SCHEMES only: fsspec knows dozens more, among them `file`, and chains such as
`simplecache::http://...` that would go round the guard.
"""

import asyncio
import os
import stat
from collections.abc import Callable
from typing import TypeVar

from configs.errors import RunError, UserError
from data_pipeline import storage
from data_pipeline.ingest.fetch.body import SMALL, Room, too_large
from data_pipeline.ingest.fetch.failure import Failed
from data_pipeline.ingest.fetch.network_error import name_of
from data_pipeline.ingest.fetch.threads import Threads
from data_pipeline.stores.s3_errors import Denied

SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf")

T = TypeVar("T")


def read_file(path: str, part: tuple[int, int] | None, cap: int) -> bytes:
    """A local file's bytes, or its `part` (offset, size).

    Raises:
        Failed: not_found, permission, not_a_file, too_large, truncated, storage.
    """
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as stream:
            about = os.fstat(stream.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise Failed("not_a_file", "a folder or a device")
            start, size = part or (0, about.st_size)
            if size > cap:
                raise too_large(cap)
            if part:
                stream.seek(start)
            data = stream.read(size)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise explain(error) from None
    return _whole(data, size)


async def read_object(path: str, part: tuple[int, int] | None, cap: int, room: Room, threads: Threads) -> bytes:
    """An object's bytes, or its `part`. One request for a picture up to SMALL; of a larger one the size is asked first.

    Raises:
        Failed: as `read_file`.
    """

    async def run(call: Callable[[], T]) -> T:
        return await asyncio.wrap_future(threads.submit(call))

    try:
        if part:
            if part[1] > cap:
                raise too_large(cap)
            await room.need(part[1])
            return _whole(await run(lambda: storage.read_range(path, *part)), part[1])
        head = await run(lambda: storage.read_range(path, 0, SMALL + 1))
        if len(head) <= SMALL:
            if len(head) > cap:
                raise too_large(cap)
            return head
        size = await run(lambda: storage.size_of(path))
        if size > cap:
            raise too_large(cap)
        await room.need(size)
        rest = await run(lambda: storage.read_range(path, len(head), size - len(head)))
        return _whole(head + rest, size)
    except Failed:
        raise
    except Exception as error:
        raise explain(error) from None


def _whole(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise Failed("truncated", f"{len(data)} of {size} bytes")
    return data


def explain(error: Exception) -> Failed:
    """What a file system or a store raised, without paths, as these differ among machines."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Failed("not_found", "no such file")
    if isinstance(error, PermissionError | Denied):
        return Failed("permission", "no permission to read it")
    if isinstance(error, IsADirectoryError):
        return Failed("not_a_file", "a folder or a device")
    if isinstance(error, ValueError):
        return Failed("bad_url", "not a path")
    if isinstance(error, UserError):  # no keys, no such bucket: the sentence says what to do
        return Failed("storage", str(error))
    if isinstance(error, RunError):
        return Failed("storage", "the store failed for too long", retryable=True)
    return Failed("storage", name_of(error), retryable=True)
