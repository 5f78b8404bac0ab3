"""S3 as a place for bytes: reads in blocks, puts that are whole or not there, listings page by page."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from configs.errors import RunError, UserError
from data_pipeline.stores.client import Client, Settings, seconds_for, split
from data_pipeline.stores.patience import Absent, PastTheEnd
from data_pipeline.stores.reader import BlockReader
from data_pipeline.stores.s3_errors import Denied
from data_pipeline.stores.store import Stat
from data_pipeline.stores.upload import AT_ONCE, upload

BLOCK = 8 * 2**20
"""Bytes of one request; larger reads are several at a time."""


@dataclass(frozen=True)
class Block:
    """Bytes of an object, with the object's size and ETag at that moment."""

    data: bytes
    size: int
    stamp: str


class S3Store:
    def __init__(self, settings: Settings):
        self.client = Client(settings)

    def read(self, path: str) -> bytes:
        first = self.block(path, 0, BLOCK)
        if first.size <= len(first.data):
            return first.data
        return self._rest(path, first, 0, first.size)

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        if size <= 0:
            return b""
        first = self.block(path, offset, min(size, BLOCK))
        stop = min(offset + size, first.size)
        return first.data if offset + len(first.data) >= stop else self._rest(path, first, offset, stop)

    def read_tail(self, path: str, size: int) -> bytes:
        if size <= 0:
            return b""
        if size > BLOCK:
            length = self._head(path)["ContentLength"]
            return self.read_range(path, max(0, length - size), size)
        tail = self._get(path, f"bytes=-{size}", None, size)
        return tail.data[-size:]

    def open(self, path: str) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(BlockReader(path, self.block, self.ask), 2**17))

    def block(self, path: str, offset: int, size: int) -> Block:
        """Up to `size` bytes from `offset`; none at or after the end. Raises FileNotFoundError."""
        return self._get(path, f"bytes={offset}-{offset + size - 1}", offset, size)

    def ask(self, path: str, offset: int, size: int) -> "Future[Block]":
        """The same without waiting, and without trying again."""
        import asyncio

        reading = self._read(path, f"bytes={offset}-{offset + size - 1}", offset, size)
        return asyncio.run_coroutine_threadsafe(
            asyncio.wait_for(reading, seconds_for(size)), self.client.filesystem().loop
        )

    def _get(self, path: str, span: str, offset: int | None, size: int) -> Block:
        from fsspec.asyn import sync

        def attempt() -> Block:
            loop = self.client.filesystem().loop
            return cast(Block, sync(loop, self._read, path, span, offset, size, timeout=seconds_for(size)))

        try:
            return self.client.run(path, attempt)
        except PastTheEnd:
            head = self._head(path)
            return Block(b"", head["ContentLength"], _stamp(head))

    async def _read(self, path: str, span: str, offset: int | None, size: int) -> Block:
        bucket, key = split(path)
        answer = await self.client.filesystem()._call_s3("get_object", Bucket=bucket, Key=key, Range=span)
        try:
            data = await answer["Body"].read()
        finally:
            answer["Body"].close()
        if "ContentRange" in answer:
            return Block(data, int(answer["ContentRange"].rsplit("/", 1)[1]), _stamp(answer))
        part = data if offset is None else data[offset:][:size]  # a server without ranges sent all
        return Block(part, len(data), _stamp(answer))

    def _rest(self, path: str, first: Block, offset: int, stop: int) -> bytes:
        """`first`, which begins at `offset`, and all after it up to `stop`."""

        def more(start: int) -> bytes:
            block = self.block(path, start, min(BLOCK, stop - start))
            if block.stamp != first.stamp:
                raise RunError(f"{path} changed while it was read: run the same command again when nobody writes it")
            return block.data

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return b"".join([first.data, *pool.map(more, range(offset + len(first.data), stop, BLOCK))])

    def _head(self, path: str) -> dict[str, Any]:
        return self.client.call(path, "head_object", Key=split(path)[1])

    def stat(self, path: str) -> Stat | None:
        if not split(path)[1] or path.endswith("/"):
            return None
        try:
            head = self._head(path)
        except Absent:
            return None
        return Stat(path, head["ContentLength"], _stamp(head))

    def exists(self, path: str) -> bool:
        if self.stat(path) is not None:
            return True
        key = split(path)[1].rstrip("/")
        answer = self.client.call(path, "list_objects_v2", Prefix=f"{key}/" if key else "", MaxKeys=1)
        return not key or bool(answer.get("Contents"))

    def list(self, folder: str, prefix: str = "") -> Iterator[tuple[str, Stat | None]]:
        base = _prefix(folder)
        for page in self._pages(folder, base + prefix, Delimiter="/"):
            for inner in page.get("CommonPrefixes", ()):
                yield inner["Prefix"][len(base) :].rstrip("/"), None
            for item in page.get("Contents", ()):
                name = item["Key"][len(base) :]
                if name:  # an empty object named like the folder stands for the folder
                    yield name, _found(folder, name, item)

    def walk(self, folder: str) -> Iterator[Stat]:
        base = _prefix(folder)
        for page in self._pages(folder, base):
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    yield _found(folder, item["Key"][len(base) :], item)

    def _pages(self, folder: str, prefix: str, **request: Any) -> Iterator[dict[str, Any]]:
        """Up to 1,000 keys a page; each page is asked for when the one before is used up."""
        token: dict[str, str] = {}
        while True:
            page = self.client.call(folder, "list_objects_v2", Prefix=prefix, **request, **token)
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def put(self, path: str, data: bytes, if_absent: bool) -> bool:
        return self._put(path, io.BytesIO(data), len(data), if_absent)

    def put_file(self, path: str, file: str, if_absent: bool) -> bool:
        with open(file, "rb") as stream:
            return self._put(path, stream, stream.seek(0, io.SEEK_END), if_absent)

    def _put(self, path: str, source: BinaryIO, size: int, if_absent: bool) -> bool:
        if if_absent and self._is_taken(path):
            return False
        return upload(self.client, path, source, size, if_absent)

    def _is_taken(self, path: str) -> bool:
        """Asked before a put under a condition: it spares the upload, and serves servers without conditions."""
        try:
            return self.stat(path) is not None
        except Denied:  # who may put need not be allowed to look; the put itself tells who may not
            return False

    def remove(self, path: str) -> None:
        self.client.call(path, "delete_object", Key=split(path)[1])

    def remove_tree(self, folder: str) -> None:
        """A page of keys after the other."""
        base = _prefix(folder)
        if not base:
            raise UserError(f"{folder} is a whole bucket: looksay removes only folders in it")
        for page in self._pages(folder, base):
            self._remove_keys(folder, [item["Key"] for item in page.get("Contents", ())])

    def _remove_keys(self, folder: str, keys: Sequence[str]) -> None:
        if not keys:
            return
        objects = [{"Key": key} for key in keys]

        def attempt() -> None:
            answer = self.client.call(folder, "delete_objects", Delete={"Objects": objects, "Quiet": True})
            for problem in answer.get("Errors", ()):
                error = OSError(f"{problem.get('Key')}: {problem.get('Message')}")
                error.response = {"Error": problem}  # type: ignore[attr-defined]
                raise error

        self.client.run(folder, attempt)


def _prefix(folder: str) -> str:
    key = split(folder)[1].strip("/")
    return f"{key}/" if key else ""


def _found(folder: str, name: str, item: dict[str, Any]) -> Stat:
    return Stat(f"{folder.rstrip('/')}/{name}", item["Size"], _stamp(item))


def _stamp(answer: dict[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')
