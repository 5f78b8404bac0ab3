"""Rows of a unit on their way to an outcome each: pictures arrive in any order, the outcome does not depend on it."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from configs.ingest import DedupConfig, FiltersConfig, ImagesConfig, TextConfig
from configs.schema import BuildRecipe
from data_pipeline.ingest.careful import Careful
from data_pipeline.ingest.decode import PictureError, Stored, decode, prepare, read_header
from data_pipeline.ingest.fetch.failure import FetchFailure
from data_pipeline.ingest.filters.rules import Filters
from data_pipeline.ingest.record import ImageRef, Record
from data_pipeline.ingest.segments import Unit
from data_pipeline.ingest.sources.reading import read_cell, read_records
from data_pipeline.ingest.watchdog import Watchdog
from data_pipeline.sample import Reject, Sample, key_of

SLICE = 128
"""Rows read at a time: pictures that stand in the source itself are in memory for so many rows, not for the unit."""
RECENT_BYTES = 64 * 2**20
FATAL = ("timeout", "memory", "crashed")
"""What a picture did to the child that decoded it."""
NO_PIXELS = np.empty((0, 0, 3), np.uint8)
"""Stands for pixels that are not kept; who needs them decodes what is stored."""


@lru_cache(maxsize=2)
def _filters(filters: FiltersConfig, text: TextConfig) -> Filters:
    return Filters(filters, text)


@dataclass(frozen=True)
class Made:
    """A kept sample and what duplicates of it are recognised by."""

    sample: Sample
    exact: bytes | None = None
    near: bytes | None = None


@dataclass
class _Row:
    """A row whose pictures are on their way. One slot per picture, and the SHA-256 of each one's source bytes."""

    position: int
    record: Record
    slots: list[Stored | Reject | None] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)


class Making:
    """Rows of a unit on their way to an outcome each."""

    def __init__(self, recipe: BuildRecipe, child: Careful | None, watchdog: Watchdog | None):
        self.recipe, self.child, self.watchdog = recipe, child, watchdog
        self.filters = _filters(recipe.filters, recipe.text)
        self.outcomes: dict[int, Made | Reject] = {}
        self.waiting: dict[int, _Row] = {}
        self.measured = _looks_at_sizes(recipe.filters)

    def references(self, unit: Unit) -> Iterator[tuple[tuple[int, int], ImageRef]]:
        """What has to be fetched, as ((position, picture), reference); what is here already is done on the way."""
        wanted = None if unit.only is None else frozenset(unit.only)
        for start in range(unit.start, unit.stop, SLICE):
            stop = min(unit.stop, start + SLICE)
            first = unit.first + start - unit.start
            if wanted is not None and not any(first + n in wanted for n in range(stop - start)):
                continue
            records = read_records(self.recipe.source, unit.item, start, stop, self.filters.columns)
            for offset, record in enumerate(records):
                if wanted is None or first + offset in wanted:
                    yield from self._begin(first + offset, record)

    def _begin(self, position: int, record: Record) -> Iterator[tuple[tuple[int, int], ImageRef]]:
        reject = record.problem or self.filters.before_fetch(record)
        if reject is not None:
            self.outcomes[position] = reject
            return
        count = len(record.images)
        row = _Row(position, record, [None] * count, [b""] * count)
        self.waiting[position] = row
        if not count:
            self._finish(row)
        for number, ref in enumerate(record.images):
            if ref.canvas is not None and (ref, self.recipe.images) in _recent:
                self._fill(row, number, *_recent[ref, self.recipe.images])
            elif ref.data is not None:
                self.take(position, number, ref.data)
            elif ref.row >= 0:
                try:
                    self.take(position, number, read_cell(ref))
                except OSError as error:
                    self.take(position, number, FetchFailure("unreadable", str(error), False))
            else:
                yield (position, number), ref

    def take(self, position: int, number: int, got: bytes | FetchFailure) -> None:
        """One picture's bytes, or why there are none."""
        row = self.waiting[position]
        if isinstance(got, FetchFailure):
            self._fill(row, number, Reject("fetch", got.reason, got.detail), b"")
            return
        sha, ref = hashlib.sha256(got).digest(), row.record.images[number]
        stored = self._picture(got, sha, ref)
        if ref.canvas is not None and isinstance(stored, Stored):
            _recent.keep((ref, self.recipe.images), (replace(stored, pixels=NO_PIXELS), sha))
        self._fill(row, number, stored, sha)

    def _picture(self, data: bytes, sha: bytes, ref: ImageRef) -> Stored | Reject:
        try:
            if self.child is not None:
                return self._carefully(self.child, data, sha, ref)
            if self.watchdog is None:
                return self._unwanted(data, sha) or prepare(data, self.recipe.images, ref.canvas)
            with self.watchdog.limit(self.recipe.images.decode_seconds):
                return self._unwanted(data, sha) or prepare(data, self.recipe.images, ref.canvas)
        except PictureError as error:
            return Reject("decode", error.reason, str(error))

    def _unwanted(self, data: bytes, sha: bytes) -> Reject | None:
        """What the rules say of a picture's size, from its header, and of its bytes."""
        if not self.measured:
            return None
        header = read_header(data, self.recipe.images.max_pixels)
        return self.filters.before_decode(sha, header.width, header.height)

    def _carefully(self, child: Careful, data: bytes, sha: bytes, ref: ImageRef) -> Stored | Reject:
        """The same outcome, but the child sees the bytes first: even a header may be what killed the worker."""
        try:
            stored = child.prepare(data, self.recipe.images, ref.canvas)
        except PictureError as error:
            if error.reason in FATAL:
                raise
            reject = self._unwanted(data, sha)
            if reject is None:
                raise
            return reject
        return self._unwanted(data, sha) or stored

    def _fill(self, row: _Row, number: int, stored: Stored | Reject, sha: bytes) -> None:
        row.slots[number], row.hashes[number] = stored, sha
        if all(slot is not None for slot in row.slots):
            self._finish(row)

    def _finish(self, row: _Row) -> None:
        """All pictures are there: the sample, or the failure of the first picture that has one."""
        del self.waiting[row.position]
        self.outcomes[row.position] = self._outcome(row)

    def _outcome(self, row: _Row) -> Made | Reject:
        pictures = []
        for slot in row.slots:
            if isinstance(slot, Reject):
                return slot
            assert slot is not None
            pictures.append(slot)
        record = row.record
        provenance = dict(record.provenance)
        if any(ref.is_http for ref in record.images):
            provenance["sha256"] = [sha.hex() for sha in row.hashes]
        sample = Sample(
            key=key_of(row.position),
            images=tuple(p.data for p in pictures),
            formats=tuple(p.format for p in pictures),
            infos=tuple(p.info for p in pictures),
            text=None if record.messages is not None else record.text,
            messages=record.messages,
            provenance=provenance,
            rejected=record.rejected,
        )
        reject = self.filters.on_sample(sample)
        if reject is not None:
            return reject
        return Made(sample, *_marks(self.recipe.dedup, sample, row.hashes, pictures))


def _looks_at_sizes(filters: FiltersConfig) -> bool:
    """Whether any rule needs the header or the hash of a picture before it is decoded."""
    limits = (filters.max_area, filters.max_aspect, filters.hashes)
    return bool(filters.min_side or filters.min_area or any(limit is not None for limit in limits))


def _marks(
    dedup: DedupConfig, sample: Sample, hashes: list[bytes], pictures: list[Stored]
) -> tuple[bytes | None, bytes | None]:
    """What duplicates of a sample are recognised by: 16 bytes of hash, and the look of its only picture.

    A sample without pictures is equal to another by its text alone; one of several pictures only by all of them.
    """
    exact = near = None
    if dedup.exact == "image+text" or (dedup.exact == "image" and hashes):
        said: Any = sample.text if sample.messages is None else [m.content for m in sample.messages]
        text = repr((said, sample.rejected)).encode() if dedup.exact == "image+text" else b""
        exact = hashlib.sha256(b"".join(hashes) + text).digest()[:16]
    if dedup.near and len(pictures) == 1:
        from data_pipeline.ingest.dedup.perceptual import perceptual_hash

        pixels = pictures[0].pixels
        near = perceptual_hash(pixels if pixels.size else pixels_of(sample.images[0]))
    return exact, near


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, 2**31))


class _Recent(OrderedDict[tuple[ImageRef, ImagesConfig], tuple[Stored, bytes]]):
    """Prepared pictures of a worker that may come again (easy-VQA asks ten questions about each), by bytes bounded."""

    held = 0

    def keep(self, key: tuple[ImageRef, ImagesConfig], value: tuple[Stored, bytes]) -> None:
        if key in self:
            return
        self[key] = value
        self.held += len(value[0].data)
        while self.held > RECENT_BYTES and len(self) > 1:
            _, (stored, _) = self.popitem(last=False)
            self.held -= len(stored.data)


_recent = _Recent()
