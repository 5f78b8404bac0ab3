"""An object as a file: blocks that grow while it is read in order, the next asked for ahead; at most two in memory."""

import io
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from configs.errors import RunError

SMALLEST, LARGEST = 256 * 2**10, 8 * 2**20
"""Bytes of the first block and of the largest: who reads a header alone should not get 8 MiB."""


class Block(Protocol):
    @property
    def data(self) -> bytes: ...
    @property
    def size(self) -> int: ...
    @property
    def stamp(self) -> str: ...


class BlockReader(io.RawIOBase):
    """`get(path, offset, size)` gives a block and tries again what may pass, `ask` the same at once as a future.

    Raises:
        FileNotFoundError: at construction, no object.
        RunError: at a read, the object became another.
    """

    def __init__(
        self,
        path: str,
        get: Callable[[str, int, int], Block],
        ask: Callable[[str, int, int], "Future[Any]"],
    ):
        self._path, self._get, self._ask = path, get, ask
        self._position = self._start = 0
        self._next: tuple[int, Future[Block]] | None = None
        block = get(path, 0, SMALLEST)
        self._data, self._size, self._stamp = block.data, block.size, block.stamp
        self._step = SMALLEST

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"{self._path}: position {base + offset} is before its start")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._size or not len(buffer):
            return 0
        if not self._start <= self._position < self._start + len(self._data):
            self._load()
        at = self._position - self._start
        piece = self._data[at : at + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _load(self) -> None:
        """The block at the position, from what was asked for ahead if it fits."""
        in_order = self._position == self._start + len(self._data)
        self._step = min(self._step * 4, LARGEST) if in_order else SMALLEST
        ahead, self._next = self._next, None
        self._data = b""  # let go of it before the next comes
        block: Block | None = None
        if ahead and ahead[0] == self._position:
            block = _result(ahead[1])
        elif ahead:
            ahead[1].cancel()
        if block is None:
            block = self._get(self._path, self._position, self._step)
        if block.stamp != self._stamp or not block.data:
            raise RunError(f"{self._path} changed while it was read: run the same command again when nobody writes it")
        self._start, self._data = self._position, block.data
        stop = self._start + len(self._data)
        if in_order and stop < self._size:
            self._next = (stop, self._ask(self._path, stop, min(self._step * 4, LARGEST)))

    def close(self) -> None:
        if self._next is not None:
            self._next[1].cancel()
            self._next = None
        self._data = b""
        super().close()


def _result(future: "Future[Block]") -> Block | None:
    """None where it failed, for whatever reason: the patient way gets the block, or says why not."""
    return None if future.exception() is not None else future.result()
