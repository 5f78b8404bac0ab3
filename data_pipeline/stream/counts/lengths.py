"""Counts + layout + the policy for long samples: the columns that the planner works on."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data_pipeline.storage import is_remote, join, read_range
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.counts.format import Counts, Shape, read_run, read_shape
from data_pipeline.stream.counts.make import counts_fingerprint, counts_folder, ensure_counts
from data_pipeline.stream.layout import Geometry, fit_sample, measure
from data_pipeline.stream.plan.order import Span
from data_pipeline.stream.plan.rows import Drawn
from data_pipeline.stream.read.dataset import Dataset

UNREADABLE, TOO_LONG = 0, -1
"""What `tokens` says of a sample that is never drawn."""
OPEN_SHAPES = 4096
CONNECTIONS = 32


@dataclass(frozen=True)
class Policy:
    """Rows of `length`, and what becomes of a sample that is longer: reject, shrink-image or truncate-text."""

    length: int
    long_samples: str = "reject"


class DatasetLengths:
    """Lengths of a dataset's samples under a tokenizer, template, geometry and policy. Holds no sample in memory.

    Args:
        source: number of the source in the recipe.
        progress: show a bar while samples are counted for the first time.
    """

    def __init__(
        self,
        dataset: Dataset,
        label: str,
        source: int,
        chat: Chat,
        geometry: Geometry,
        policy: Policy,
        *,
        progress: bool = True,
    ):
        self.dataset, self.label, self.source, self.geometry, self.policy = dataset, label, source, geometry, policy
        self.starts = dataset.starts
        self.folder = counts_folder(dataset, chat)
        self.shortened = 0
        """Samples read so far that fit a row only by the policy: pictures shrunk, or text cut."""
        self._unstored = ensure_counts(dataset, chat, progress=progress)
        self.identity = {
            "dataset": dataset.identity[:16],
            "tokenizer and template": counts_fingerprint(chat),
            "layout": repr(geometry),
            "long samples": policy.long_samples,
        }
        self._shape = lru_cache(maxsize=OPEN_SHAPES)(self._read_shape)
        self._pool = ThreadPoolExecutor(CONNECTIONS) if is_remote(self.folder) else None

    def shard_name(self, number: int) -> str:
        return self.dataset.shards[number]

    def read(self, spans: Sequence[Span], epoch: int = 0) -> Drawn:
        """The samples of the spans, in their order. `tokens` is UNREADABLE or TOO_LONG where one is never drawn."""
        parts = list(self._pool.map(self._run, spans) if self._pool else map(self._run, spans))
        counts = Counts.joined(parts)
        shard = np.repeat([s for s, _, _ in spans], [stop - start for _, start, stop in spans]).astype(np.int32)
        index = np.concatenate([np.arange(start, stop) for _, start, stop in spans]) + self.starts[shard]
        tokens, labels, visual, patches = self._lengths(counts)
        n = len(counts)
        return Drawn(
            np.full(n, self.source, np.int32),
            np.full(n, epoch, np.int32),
            index,
            shard,
            counts.key,
            tokens.astype(np.int32),
            labels.astype(np.int32),
            visual.astype(np.int32),
            patches.astype(np.int32),
            np.diff(counts.pictures).astype(np.int32),
        )

    def lookup(self, index: NDArray[np.int64], epoch: NDArray[np.int32]) -> Drawn:
        """Single samples, by their numbers in the dataset."""
        shards = np.searchsorted(self.starts, index, side="right") - 1
        within = index - self.starts[shards]
        found = self.read([(int(s), int(i), int(i) + 1) for s, i in zip(shards, within, strict=True)])
        return Drawn(found.source, epoch.astype(np.int32), *(getattr(found, name) for name in _AFTER_EPOCH))

    def _lengths(self, counts: Counts) -> tuple[NDArray[np.int64], ...]:
        """(tokens, labels, visual tokens, patches) of each sample."""
        text = _sums(counts.runs, counts.run_starts)
        place = np.arange(len(counts.runs)) - np.repeat(counts.run_starts[:-1], np.diff(counts.run_starts))
        learned = counts.runs * (place % 2)
        labels = _sums(learned, counts.run_starts)
        visual, patches = (
            _sums(part, counts.pictures) for part in measure(counts.sizes[:, 0], counts.sizes[:, 1], self.geometry)
        )
        tokens = np.where(text > 0, text + visual, UNREADABLE)
        for i in np.flatnonzero(tokens > self.policy.length).tolist():
            tokens[i], labels[i], visual[i], patches[i] = self._fitted(counts, i, int(text[i]))
        return tokens, labels, visual, patches

    def _fitted(self, counts: Counts, i: int, text: int) -> tuple[int, int, int, int]:
        sizes = tuple((int(w), int(h)) for w, h in counts.sizes[counts.pictures[i] : counts.pictures[i + 1]])
        runs = tuple(counts.runs[counts.run_starts[i] : counts.run_starts[i + 1]].tolist())
        last, policy = int(counts.last_image[i]), self.policy
        fitted = fit_sample(sizes, text, runs, last, self.geometry, policy.length, policy.long_samples)
        if fitted is None:
            return TOO_LONG, 0, 0, 0
        self.shortened += 1
        return fitted.tokens, fitted.label_tokens, fitted.visual_tokens, fitted.patches

    # ---- bytes ---------------------------------------------------------------------------------------------

    def _run(self, span: Span) -> Counts:
        shard, start, stop = span
        name = self.dataset.shards[shard]
        path = join(self.folder, f"{name}.counts")
        if name in self._unstored:
            data = self._unstored[name]
            return read_run(path, lambda at, size: data[at : at + size], self._shape(shard), start, stop)
        if is_remote(path):
            return read_run(path, lambda at, size: read_range(path, at, size), self._shape(shard), start, stop)
        # Opened and closed at once: 100,000 shards are more than a process may keep open.
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return read_run(path, lambda at, size: os.pread(descriptor, size, at), self._shape(shard), start, stop)
        finally:
            os.close(descriptor)

    def _read_shape(self, shard: int) -> Shape:
        name = self.dataset.shards[shard]
        path = join(self.folder, f"{name}.counts")
        if name in self._unstored:
            return read_shape(path, lambda at, size: self._unstored[name][at : at + size])
        return read_shape(path, lambda at, size: read_range(path, at, size))


_AFTER_EPOCH = ("index", "shard", "key", "tokens", "labels", "visual", "patches", "images")


def _sums(values: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of each list."""
    running = np.concatenate([[0], np.cumsum(values)])
    return np.asarray(running[starts[1:]] - running[starts[:-1]])
