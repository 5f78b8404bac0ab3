"""Where to look for copies of a picture: buckets that two copies share, although what they look like differs a little.

A perceptual hash has features: low frequencies of luma, mean luma and colour, shape. Each is cut into cells, finer
where pictures crowd. Which cells it falls into makes the picture's bucket. Features that lie near the edge of a cell
could be beyond it in a copy: the picture goes to the buckets of these cells too, most doubtful features first. Two
pictures whose features differ by no more than the tolerances, with few doubtful ones, always share a bucket.

There are two layers: few wide cells (`coarse_keys`) to bring candidates to one task, and many narrow ones
(`fine_keys`) to tell apart there what came together. All numbers are integers, so every machine finds the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data_pipeline.ingest.dedup.perceptual import CHROMA, SHAPE, plain, rough_luma

UNIT = 1024
"""Features are integers: levels times this."""

LOW = ((0, 1), (1, 0), (0, 2), (2, 0), (1, 1), (1, 2), (2, 1), (2, 2), (0, 3), (3, 0), (1, 3), (3, 1), (0, 4), (4, 0))
"""Frequencies (down, across) of the 8 x 8 cosine transform of luma."""


@dataclass(frozen=True)
class Axis:
    """A feature, the edges of its cells, and how far copies may differ there; edges and tolerances ascend together."""

    feature: int
    edges: np.ndarray
    tolerance: np.ndarray


def _frequency(number: int, edges: tuple[int, ...], tolerance: tuple[int, ...]) -> Axis:
    """Edges on both sides of 0, in levels of an orthonormal transform."""
    mirrored = [-edge for edge in reversed(edges)]
    tolerances = [*reversed(tolerance), *tolerance]
    return Axis(number, np.array([*mirrored, *edges]) * float(UNIT), np.array(tolerances) * float(UNIT))


def _mean(feature: int, width: int, tolerance: int) -> Axis:
    """Cells of `width` levels; 128, which is no colour at all, and white lie in the middle of one."""
    edges = np.arange(128 % width + width // 2, 256, width) * float(UNIT)
    return Axis(feature, edges, np.full(len(edges), float(tolerance * UNIT)))


def _shape() -> Axis:
    """Edges lie between usual shapes: 3:1, 2:1, 16:9, 3:2, 4:3, 5:4 and square."""
    edges = np.array([-60, -42, -23, -16, -6, 7, 17, 24, 43, 61]) + 127.5
    return Axis(len(LOW) + 3, edges * UNIT, np.full(len(edges), 2.0 * UNIT))


_Y, _CB, _CR = range(len(LOW), len(LOW) + 3)
COARSE = (
    *(_frequency(number, (24, 100), (6, 8)) for number in range(4)),
    _mean(_Y, 32, 3),
    _mean(_CB, 24, 2),
    _mean(_CR, 24, 2),
    _shape(),
)
FINE = (
    *(_frequency(number, (12, 40, 100, 220), (4, 6, 8, 12)) for number in range(len(LOW))),
    _mean(_Y, 16, 3),
    _mean(_CB, 12, 2),
    _mean(_CR, 12, 2),
)
COARSE_DOUBTS, FINE_DOUBTS = 3, 5
"""Most features that are doubtful: a picture is in at most 8 coarse and 32 fine buckets, 1.8 and 7 on average."""


Keys = tuple[np.ndarray, np.ndarray]
"""(line int64 [m], key uint64 [m])."""

BLOCK = 1 << 14
"""Lines at a time: what they need in between is several times their size."""


def coarse_keys(hashes: np.ndarray) -> Keys:
    """uint8 [n, NEAR_BYTES] -> keys; lines of plain pictures have none."""
    return _blocks(hashes, _coarse)


def fine_keys(hashes: np.ndarray) -> Keys:
    """As `coarse_keys`, to be joined with them."""
    return _blocks(hashes, lambda block: _keys(_features(block), FINE, FINE_DOUBTS))


def _coarse(hashes: np.ndarray) -> Keys:
    lines = np.flatnonzero(~plain(hashes))
    at, keys = _keys(_features(hashes[lines]), COARSE, COARSE_DOUBTS)
    return lines[at], keys


def _blocks(hashes: np.ndarray, make: Callable[[np.ndarray], Keys]) -> Keys:
    lines, keys = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    for start in range(0, len(hashes), BLOCK):
        at, key = make(hashes[start : start + BLOCK])
        lines.append(at + start)
        keys.append(key)
    return np.concatenate(lines), np.concatenate(keys)


def _cosines() -> np.ndarray:
    """[64, frequencies], whole numbers: products with bytes are exact in double precision, in whatever order."""
    place = np.arange(8)
    wave = np.array([np.cos((2 * place + 1) * k * np.pi / 16) * np.sqrt((1 if k else 0.5) / 4) for k in range(8)])
    return np.stack([np.rint(np.outer(wave[down], wave[across]).ravel() * UNIT) for down, across in LOW], axis=1)


_COSINES = _cosines()


def _features(hashes: np.ndarray) -> np.ndarray:
    """float64 [n, features], whole numbers."""
    luma = rough_luma(hashes)
    low = luma.astype(np.float64) @ _COSINES
    means = [part.sum(axis=1, dtype=np.int64) * (UNIT // 64) for part in (luma, *(hashes[:, part] for part in CHROMA))]
    return np.column_stack([low, *means, hashes[:, SHAPE].astype(np.int64) * UNIT])


def _keys(features: np.ndarray, axes: tuple[Axis, ...], doubts: int) -> Keys:
    odd = np.random.default_rng(3).integers(0, 2**63, len(axes), np.uint64) * np.uint64(2) + np.uint64(1)
    key = np.zeros(len(features), np.uint64)
    room = np.empty((len(features), len(axes)))
    step = np.empty((len(features), len(axes)), np.uint64)
    for number, axis in enumerate(axes):
        cell, room[:, number], up = _cell(features[:, axis.feature], axis)
        key += cell.astype(np.uint64) * odd[number]
        step[:, number] = np.where(up, odd[number], ~odd[number] + np.uint64(1))
    first = np.argsort(room, axis=1, kind="stable")[:, :doubts]
    room, step = np.take_along_axis(room, first, 1), np.take_along_axis(step, first, 1)
    count = (room < 1).sum(axis=1)
    lines, keys = [], []
    for choice in range(1 << doubts):
        at = np.flatnonzero(choice < 1 << count)
        moved = key[at]
        for doubt in range(doubts):
            if choice >> doubt & 1:
                moved = moved + step[at, doubt]
        lines.append(at)
        keys.append(moved)
    return np.concatenate(lines), np.concatenate(keys)


def _cell(values: np.ndarray, axis: Axis) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(cell, distance to the nearest edge in halves of its tolerance, whether that edge is the upper one)."""
    edges = np.concatenate([[-np.inf], axis.edges, [np.inf]])
    halves = np.concatenate([[1.0], axis.tolerance / 2, [1.0]])
    cell = np.searchsorted(axis.edges, values, side="right")
    below, above = (values - edges[cell]) / halves[cell], (edges[cell + 1] - values) / halves[cell + 1]
    return cell, np.minimum(below, above), above < below
