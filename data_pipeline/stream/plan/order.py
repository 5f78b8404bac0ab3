"""Draw order of one source: epochs joined end to end, each a seeded permutation of chunks, without ever holding one.

A chunk is a run of neighbouring samples of a shard, the unit of reading. A group is SHUFFLE_CHUNKS chunks that follow one
another in the permuted order; its samples are shuffled among each other. Any group of any epoch is computed by itself:
the permutation is a Feistel network over chunk numbers (Luby & Rackoff 1988), walked until it lands among them (Black &
Rogaway 2002), so a billion samples cost no memory and a seek costs nothing.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

SHUFFLE_CHUNKS = 16
ROUNDS = 6

Span = tuple[int, int, int]
"""(shard, first sample, last sample + 1), samples counted within the shard."""


class Order:
    """Where the samples of a source stand in its draw order.

    Args:
        starts: [shards + 1] cumulative samples of the shards.
        chunk: samples of a chunk; the last one of a shard may be shorter.
    """

    def __init__(self, starts: NDArray[np.int64], chunk: int, seed: int, source: int):
        self.chunk, self.seed, self.source = chunk, seed, source
        self.starts = np.asarray(starts, np.int64)
        self._chunks = np.concatenate([[0], np.cumsum(-(-np.diff(self.starts) // chunk))]).astype(np.int64)
        self.chunks = int(self._chunks[-1])
        self.groups = -(-self.chunks // SHUFFLE_CHUNKS)
        half = max(1, (max(2, self.chunks) - 1).bit_length())
        self._half = np.uint64((half + 1) // 2)
        self._mask = np.uint64((1 << int(self._half)) - 1)

    def spans(self, epoch: int, group: int) -> list[Span]:
        """Where the group's samples lie, chunk by chunk, in drawing order of the chunks."""
        places = np.arange(group * SHUFFLE_CHUNKS, min((group + 1) * SHUFFLE_CHUNKS, self.chunks))
        chunks = self._permuted(places, epoch)
        shards = np.searchsorted(self._chunks, chunks, side="right") - 1
        first = (chunks - self._chunks[shards]) * self.chunk
        last = np.minimum(first + self.chunk, self.starts[shards + 1] - self.starts[shards])
        return list(zip(shards.tolist(), first.tolist(), last.tolist(), strict=True))

    def shuffle(self, epoch: int, group: int, count: int) -> NDArray[np.int64]:
        """The order in which the group's `count` samples are drawn."""
        return np.random.Generator(np.random.Philox(key=self._keys("group", epoch, group)[:2])).permutation(count)

    def _keys(self, *what: object) -> NDArray[np.uint64]:
        """Eight numbers that depend on all of it and on nothing else, the same on every machine."""
        text = "/".join(map(str, (self.seed, self.source, *what)))
        return np.frombuffer(hashlib.sha512(text.encode()).digest(), "<u8").astype(np.uint64)

    def _permuted(self, places: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        keys = self._keys("chunks", epoch)
        out = self._rounds(places.astype(np.uint64), keys)
        while (outside := out >= self.chunks).any():
            out[outside] = self._rounds(out[outside], keys)
        return out.astype(np.int64)

    def _rounds(self, values: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in keys[:ROUNDS]:
            mixed = (right + key) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed >> np.uint64(32)) & self._mask)
        return (left << self._half) | right
