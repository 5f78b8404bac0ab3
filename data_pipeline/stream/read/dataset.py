"""A dataset folder: any sample of a billion, its bytes read and checked when asked for."""

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TypeVar

import numpy as np

from configs.data import ReadConfig
from configs.errors import RunError
from data_pipeline.manifest import NAME, read_manifest
from data_pipeline.sample import Conversation
from data_pipeline.storage import is_remote, join, read_bytes
from data_pipeline.stream.read.index import Indexes, Rows
from data_pipeline.stream.read.local import LocalTars
from data_pipeline.stream.read.members import BadSample, Bytes, Place, StoredSample, cut
from data_pipeline.stream.read.remote import RemoteTars
from data_pipeline.stream.read.rescue import Found, rescued

__all__ = ["BadSample", "Dataset", "StoredSample"]

SEARCHED = 4
"""Damaged tars whose members' real places are remembered."""
NAMED = 4096
"""Shards whose names and sizes are kept as Python's."""
T = TypeVar("T")


class Dataset:
    """Samples of a folder, numbered through all shards in order. Opening it reads the manifest and nothing else.

    Args:
        read: how bytes are brought; none: the defaults.

    Raises:
        UserError: no dataset there.
    """

    def __init__(self, folder: str, read: ReadConfig | None = None):
        self.folder, self.config = folder, read or ReadConfig()
        manifest = read_manifest(folder)
        self.name, self.fingerprint = manifest.name, manifest.fingerprint
        self.identity = hashlib.sha256(read_bytes(join(folder, NAME))).hexdigest()
        self.shards = manifest.shards.names
        self.starts = np.concatenate([[0], np.cumsum(manifest.shards.samples)]).astype(np.int64)
        self._indexes = Indexes(folder)
        self._tars: LocalTars | RemoteTars
        self._tars = RemoteTars(folder, self.identity, self.config) if is_remote(folder) else LocalTars(folder)
        self._searched = lru_cache(maxsize=SEARCHED)(self._search)
        self._tar = lru_cache(maxsize=NAMED)(self._tar_path)
        self._size = lru_cache(maxsize=NAMED)(lambda shard: int(self.starts[shard + 1] - self.starts[shard]))
        self._name = lru_cache(maxsize=NAMED)(lambda shard: self.shards[shard])

    def __len__(self) -> int:
        return int(self.starts[-1])

    # ---- what the index says -------------------------------------------------------------------------------

    def _shard(self, index: int) -> tuple[int, int]:
        """(shard, row in it) of a sample."""
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        return shard, index - int(self.starts[shard])

    def _rows(self, shard: int, row: int) -> Rows:
        return self._indexes.rows(self._name(shard), self._size(shard), row)

    def shard_of(self, index: int) -> str:
        return self.shards[self._shard(index)[0]]

    def key(self, index: int) -> str:
        shard, row = self._shard(index)
        rows = self._rows(shard, row)
        return rows.keys[row - rows.first]

    def sizes(self, index: int) -> list[tuple[int, int]]:
        """(width, height) of each picture, in pixels."""
        shard, row = self._shard(index)
        return self._rows(shard, row).picture_sizes(row)

    def image_hashes(self, index: int) -> list[int]:
        """xxh3-64 of each picture's bytes."""
        shard, row = self._shard(index)
        return self._rows(shard, row).hashes(row)

    def place(self, index: int) -> Place:
        """Where the sample lies."""
        shard, row = self._shard(index)
        return self._rows(shard, row).place(row, self._tar(shard))

    # ---- bytes ---------------------------------------------------------------------------------------------

    def read(self, index: int) -> StoredSample:
        """The sample's conversation and encoded pictures, each member checked against its hash.

        Raises:
            BadSample: the bytes are wrong.
            RunError: the storage did not answer for `retry_seconds`, or the tar is gone.
        """
        found = self.read_many([index])[0]
        if isinstance(found, BadSample):
            raise found
        return found

    def conversation(self, index: int) -> Conversation:
        """The text side alone: no picture is read. Raises as `read` does."""
        place = self.place(index)
        text = Place(place.tar, place.key, place.members[-1:], 0, place.text_from)
        found = self._read([text])[0]
        if isinstance(found, BadSample):
            raise found
        return found.conversation

    def read_many(self, indices: Sequence[int]) -> list[StoredSample | BadSample]:
        """Samples in the order asked; in place of one whose bytes are wrong, what is wrong with it.

        Raises:
            RunError: as `read`.
        """
        wanted = np.asarray(indices, np.int64)
        shards = np.searchsorted(self.starts, wanted, side="right") - 1
        within = wanted - self.starts[shards]
        rows = zip(shards.tolist(), within.tolist(), strict=True)
        return self._read([self._rows(shard, row).place(row, self._tar(shard)) for shard, row in rows])

    def _tar_path(self, shard: int) -> str:
        return join(self.folder, f"{self.shards[shard]}.tar")

    def _read(self, places: list[Place]) -> list[StoredSample | BadSample]:
        check = self.config.checksums
        if isinstance(self._tars, RemoteTars):
            found = self._tars.read(places, check)
        else:
            found = self._local(places, self._tars, check)
        for number, what in enumerate(found):
            if isinstance(what, BadSample):
                found[number] = self._elsewhere(places[number], what)
        return found

    def _local(self, places: list[Place], tars: LocalTars, check: bool) -> list[StoredSample | BadSample]:
        found: list[StoredSample | BadSample] = []
        tar, data, start, whole = "", memoryview(b""), 0, False
        if not tars.risky and len(places) > 1:
            patiently(places[0].tar, self.config.retry_seconds, partial(tars.expect, places))
        for place in places:
            if place.tar != tar or not whole:
                view = patiently(
                    place.tar, self.config.retry_seconds, partial(tars.view, place.tar, place.start, place.end)
                )
                tar, (data, start), whole = place.tar, view, not tars.risky
            found.append(cut(place, data, start, check))
        return found

    def _elsewhere(self, place: Place, error: BadSample) -> StoredSample | BadSample:
        """The sample from where its members really are in a tar that lost or gained bytes before them."""
        data, found = self._searched(place.tar)
        moved = rescued(place, found, data)
        if moved is None or moved.members == place.members:
            return error
        again = cut(moved, data, 0, True)
        return error if isinstance(again, BadSample) else again

    def _search(self, tar: str) -> tuple[Bytes, Found]:
        if isinstance(self._tars, RemoteTars):
            data: Bytes = patiently(tar, self.config.retry_seconds, lambda: read_bytes(tar))
        else:
            tars = self._tars
            data = tars.view(tar, 0, 1 << 62)[0] if not tars.risky else read_bytes(tar)
        return data, Found(data)


def patiently(path: str, seconds: float, read: Callable[[], T]) -> T:
    """What `read` gives. A failure outside the bytes (time-out, lost disk) is retried to a deadline, then ends the job."""
    end, pause = time.monotonic() + seconds, 0.5
    while True:
        try:
            return read()
        except OSError as error:
            if time.monotonic() + pause > end:
                raise RunError(f"{path} could not be read for {seconds:.0f} s ({error}): check the storage") from error
            time.sleep(pause)
            pause = min(pause * 2, 10.0)
