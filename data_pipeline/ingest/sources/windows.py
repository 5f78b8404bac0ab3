"""Windows on files of record batches: rows on demand, what was read last kept by the process, bounded by bytes."""

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator

import pyarrow as pa

from data_pipeline.ingest.sources.stored import Stored, open_stored
from data_pipeline.storage import is_remote

KEEP_BYTES = 64 * 2**20
"""What a window keeps of what it has read, beside the batch that is asked for."""
MOST_WINDOWS = 4


class Window:
    """Rows of a file's columns, read forwards. Going back within what is kept is free, else the piece is read again."""

    def __init__(self, stored: Stored, columns: list[str]):
        self.stored, self.columns = stored, columns
        self.kept: deque[tuple[int, pa.RecordBatch]] = deque()
        self.held, self.next = 0, 0
        self.coming: Iterator[tuple[int, pa.RecordBatch]] | None = None

    def batches(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Rows `start ... stop`, in pieces."""
        while start < stop:
            first, batch = self._holding(start)
            take = min(stop, first + batch.num_rows) - start
            yield batch.slice(start - first, take)
            start += take

    def _holding(self, row: int) -> tuple[int, pa.RecordBatch]:
        for first, batch in self.kept:
            if first <= row < first + batch.num_rows:
                return first, batch
        if row >= self.stored.rows:
            raise OSError(f"row {row} is not there: the file was changed since it was listed")
        try:
            return self._forwards(row)
        except Exception:
            self.coming = None  # what has failed does not go on
            raise

    def _forwards(self, row: int) -> tuple[int, pa.RecordBatch]:
        if self.coming is None or row < self.next or self.stored.part(row)[0] > self.next:
            self.kept.clear()
            self.held = 0
            self.coming = self.stored.batches(row, self.columns)
        for first, batch in self.coming:
            self.next = first + batch.num_rows
            self._keep(first, batch)
            if first <= row < self.next:
                return first, batch
        raise OSError(f"the file ends before row {row}")

    def _keep(self, first: int, batch: pa.RecordBatch) -> None:
        self.kept.append((first, batch))
        self.held += batch.nbytes
        while self.held > KEEP_BYTES and len(self.kept) > 1:
            self.held -= self.kept.popleft()[1].nbytes


_Key = tuple[str, int, int, tuple[str, ...]]
_windows: OrderedDict[_Key, Window] = OrderedDict()
_opened: OrderedDict[_Key, Stored] = OrderedDict()
reading = threading.RLock()
"""Held by whoever reads through a window: it goes forwards for one reader at a time."""


def _stamp(path: str) -> tuple[int, int]:
    if is_remote(path):
        return -1, -1
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def open_table(path: str) -> Stored:
    """The file, opened once as long as it stays as it is. Raises ArrowInvalid or OSError."""
    key = (path, *_stamp(path), ())
    with reading:
        if key not in _opened:
            _opened[key] = open_stored(path)
            while len(_opened) > 2 * MOST_WINDOWS:
                _opened.popitem(last=False)
        _opened.move_to_end(key)
        return _opened[key]


def window(path: str, columns: list[str]) -> Window:
    """The window on these columns of a file. Raises ArrowInvalid or OSError."""
    key = (path, *_stamp(path), tuple(columns))
    with reading:
        if key not in _windows:
            _windows[key] = Window(open_table(path), columns)
            while len(_windows) > MOST_WINDOWS:
                _windows.popitem(last=False)
        _windows.move_to_end(key)
        return _windows[key]


def forget(path: str) -> None:
    """Drop what is kept of a file."""
    with reading:
        for cache in (_windows, _opened):
            for key in [key for key in cache if key[0] == path]:
                del cache[key]
