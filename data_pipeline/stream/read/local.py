"""Bytes of local tars: mapped into memory, or read where mapping is risky."""

import mmap
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import BinaryIO, TypeVar

from configs.errors import RunError
from configs.mounts import is_network
from data_pipeline.stream.read.members import Place

T = TypeVar("T")
MOST_AT_ONCE = 1 << 30
MAPPED = 64
"""Tars that stay mapped; more are opened anew."""


class LocalTars:
    """The tars of a folder; several are kept open. A tar that is gone ends the job: the dataset changed under it."""

    def __init__(self, folder: str):
        self.risky = is_network(folder)
        self._maps: OrderedDict[str, mmap.mmap | bytes] = OrderedDict()
        self._lock = threading.Lock()

    def view(self, path: str, start: int, end: int) -> tuple[memoryview, int]:
        """(bytes that hold start ... end - 1 as far as the tar goes, the offset at which they begin).

        Raises:
            RunError: the tar is gone.
        """
        if not self.risky:
            return memoryview(self._mapped(path)), 0
        with _opened(path) as stream:
            return memoryview(_all_of(stream, start, end)), start

    def expect(self, places: Sequence[Place]) -> None:
        """Tell the kernel what is read next: it fetches all of it at once instead of page after page."""
        held: dict[str, mmap.mmap | bytes] = {}
        for place in places:
            memory = held.get(place.tar)
            if memory is None:
                memory = held[place.tar] = self._mapped(place.tar)
            if isinstance(memory, mmap.mmap):
                start = place.start // mmap.PAGESIZE * mmap.PAGESIZE
                if 0 <= start < len(memory):
                    memory.madvise(mmap.MADV_WILLNEED, start, min(place.end, len(memory)) - start)

    def _mapped(self, path: str) -> mmap.mmap | bytes:
        with self._lock:
            found = self._maps.get(path)
            if found is not None:
                self._maps.move_to_end(path)
                return found
            with _opened(path) as stream:
                empty = os.fstat(stream.fileno()).st_size == 0  # nothing to map
                found = b"" if empty else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[path] = found
            if len(self._maps) > MAPPED:
                self._maps.popitem(last=False)  # its views, if any, keep it alive
            return found


def _all_of(stream: BinaryIO, start: int, end: int) -> bytes:
    """Bytes up to `end`, or to the end of the file: an answer that is merely short is no end."""
    parts: list[bytes] = []
    while start < end and (part := os.pread(stream.fileno(), min(end - start, MOST_AT_ONCE), start)):
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def patiently(path: str, seconds: float, read: Callable[[], T]) -> T:
    """What `read` gives. A failure outside the bytes (time-out, lost disk) is retried to a deadline, then ends the job.

    Raises:
        FileNotFoundError: at once.
        RunError: it failed for `seconds`.
    """
    end, pause = time.monotonic() + seconds, 0.5
    while True:
        try:
            return read()
        except FileNotFoundError:
            raise
        except OSError as error:
            if time.monotonic() + pause > end:
                raise RunError(f"{path} could not be read for {seconds:.0f} s ({error}): check the storage") from error
            time.sleep(pause)
            pause = min(pause * 2, 10.0)


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise RunError(f"{path} is gone: the dataset changed under the run; run `looksay data verify`") from None
