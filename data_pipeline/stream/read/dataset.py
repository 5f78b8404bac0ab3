"""A dataset folder: any sample of a billion, its bytes read and checked when asked for."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa

from configs.data import ReadConfig
from data_pipeline.manifest import NAME, read_manifest
from data_pipeline.sample import Conversation
from data_pipeline.storage import is_remote, join, read_bytes
from data_pipeline.stream.read.index import BLOCK_ROWS, Block, Indexes
from data_pipeline.stream.read.local import LocalTars, patiently
from data_pipeline.stream.read.members import BadSample, Bytes, Place, StoredSample, cut
from data_pipeline.stream.read.remote import RemoteTars
from data_pipeline.stream.read.rescue import Found

__all__ = ["BadSample", "Dataset", "StoredSample"]

SEARCHED = 4
"""Damaged tars whose members' real places are remembered."""
NAMED = 4096
"""Shards whose names and sizes are kept as Python's."""


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
        self._tars: LocalTars | RemoteTars
        self._tars = RemoteTars(folder, self.identity, self.config) if is_remote(folder) else LocalTars(folder)
        opener = self._tars.whole if isinstance(self._tars, RemoteTars) else str
        self._indexes = Indexes(folder, opener, self.config.retry_seconds)
        self._searched = lru_cache(maxsize=SEARCHED)(self._search)
        self._tar = lru_cache(maxsize=NAMED)(self._tar_path)
        self._size = lru_cache(maxsize=NAMED)(lambda shard: int(self.starts[shard + 1] - self.starts[shard]))
        self._name = lru_cache(maxsize=NAMED)(lambda shard: self.shards[shard])

    def __len__(self) -> int:
        return int(self.starts[-1])

    # ---- what the index says -------------------------------------------------------------------------------

    def _block(self, index: int) -> tuple[Block, int]:
        """(the block of the index that holds a sample, the sample's place in it)."""
        if not -1 < index < len(self):
            raise IndexError(f"{self.name} has {len(self)} samples, there is no number {index}")
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        row = index - int(self.starts[shard])
        block = self._indexes.block(self._name(shard), self._size(shard), row, self._tar(shard))
        return block, row - block.first

    def index_of_shard(self, number: int) -> pa.Table:
        """The whole index of a shard: a row per sample, as the format says."""
        return self._indexes.table(self._name(number), self._size(number))

    def shard_of(self, index: int) -> str:
        return self._name(int(np.searchsorted(self.starts, index, side="right")) - 1)

    def key(self, index: int) -> str:
        return self.place(index).key

    def sizes(self, index: int) -> list[tuple[int, int]]:
        """(width, height) of each picture, in pixels."""
        block, at = self._block(index)
        return list(block.sizes[at])

    def image_hashes(self, index: int) -> list[int]:
        """xxh3-64 of each picture's bytes."""
        return [hashed for _, _, hashed in self.place(index).members[:-1]]

    def place(self, index: int) -> Place:
        """Where the sample lies."""
        block, at = self._block(index)
        return block.places[at]

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
        found = self._bytes([text])[0]
        # One that is not there may lie elsewhere, which takes the whole sample to tell.
        return self.read(index).conversation if isinstance(found, BadSample) else found.conversation

    def read_many(self, indices: Sequence[int]) -> list[StoredSample | BadSample]:
        """Samples in the order asked; in place of one whose bytes are wrong, what is wrong with it.

        Raises:
            RunError: as `read`.
        """
        return self._read(self._places(indices))

    def _places(self, indices: Sequence[int]) -> list[Place]:
        wanted = np.asarray(indices, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(
                f"{self.name} has {len(self)} samples, numbers {wanted.min()} to {wanted.max()} were asked for"
            )
        shards = np.searchsorted(self.starts, wanted, side="right") - 1
        rows = (wanted - self.starts[shards]).tolist()
        if isinstance(self._tars, RemoteTars):
            self._bring(np.unique(shards).tolist(), self._tars)
        held: dict[tuple[int, int], Block] = {}
        places = []
        for shard, row in zip(shards.tolist(), rows, strict=True):
            key = (shard, row // BLOCK_ROWS)
            block = held.get(key)
            if block is None:
                block = held[key] = self._indexes.block(self._name(shard), self._size(shard), row, self._tar(shard))
            places.append(block.places[row - block.first])
        return places

    def _bring(self, shards: list[int], tars: RemoteTars) -> None:
        """Fetch the indexes that are not at hand, all at the same time."""
        numbers = {self._name(shard): shard for shard in shards}
        names = self._indexes.unopened(numbers)
        for name, data in zip(names, tars.wholes([self._indexes.path(name) for name in names]), strict=True):
            if data is not None:
                self._indexes.add(name, self._size(numbers[name]), data)

    def _tar_path(self, shard: int) -> str:
        return join(self.folder, f"{self.shards[shard]}.tar")

    def _read(self, places: list[Place]) -> list[StoredSample | BadSample]:
        found = self._bytes(places)
        for number, what in enumerate(found):
            if isinstance(what, BadSample) and not what.in_place:
                found[number] = self._elsewhere(places[number], what)
        return found

    def _bytes(self, places: list[Place]) -> list[StoredSample | BadSample]:
        """What lies at the places."""
        check = self.config.checksums
        if isinstance(self._tars, RemoteTars):
            return self._tars.read(places, check)
        return self._local(places, self._tars, check)

    def _local(self, places: list[Place], tars: LocalTars, check: bool) -> list[StoredSample | BadSample]:
        found: list[StoredSample | BadSample] = []
        held: dict[str, tuple[memoryview, int]] = {}
        if not tars.risky and len(places) > 1:
            patiently(places[0].tar, self.config.retry_seconds, partial(tars.expect, places))
        for place in places:
            view = held.get(place.tar)
            if view is None:
                view = patiently(
                    place.tar, self.config.retry_seconds, partial(tars.view, place.tar, place.start, place.end)
                )
                if not tars.risky:  # there it is a view of the whole tar
                    held[place.tar] = view
            found.append(cut(place, view[0], view[1], check))
        return found

    def _elsewhere(self, place: Place, error: BadSample) -> StoredSample | BadSample:
        """The sample from where its members really are in a tar that lost or gained bytes before them."""
        moved = self._searched(place.tar).place(place)
        if moved is None:
            return error
        tars = self._tars
        found = tars.read([moved], True) if isinstance(tars, RemoteTars) else self._local([moved], tars, True)
        return error if isinstance(found[0], BadSample) else found[0]

    def _search(self, tar: str) -> Found:
        """Look through a damaged tar, a window at a time."""
        tars = self._tars

        def window(start: int, end: int) -> Bytes:
            if isinstance(tars, RemoteTars):
                return tars.range(tar, start, end)
            data, first = patiently(tar, self.config.retry_seconds, partial(tars.view, tar, start, end))
            return data[start - first : end - first]

        return Found(window)
