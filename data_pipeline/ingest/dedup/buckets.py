"""Rows of one partition -> drops: within a bucket (rows of one key) each row is compared with the earliest ones.

Rows are a structured array: `key` (what brought them to this partition), `order` (published rows first, then by
position: `order_of`) and `signature` (what is compared). The result does not depend on the order in which rows come.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from data_pipeline.ingest.dedup.drops import FIRST

PAIRS = 1 << 13
"""Pairs compared at a time."""

DROP = np.dtype([("order", np.int64), ("of", np.int64)])
"""A row to drop, and the earliest row that it is a duplicate of; both by their `order`."""


def row_type(signature: int) -> np.dtype:
    """Type of rows with `signature` bytes."""
    return np.dtype([("key", np.uint64), ("order", np.int64), ("signature", np.uint8, (signature,))])


def order_of(position: np.ndarray, published: np.ndarray) -> np.ndarray:
    return np.where(published, position, position | FIRST)


def position_of(order: np.ndarray) -> np.ndarray:
    return order & (FIRST - 1)


@dataclass(frozen=True)
class Rule:
    """What makes rows duplicates.

    Attributes:
        alike: (signatures [n, bytes], signatures [n, bytes]) -> bool [n].
        fine: signatures -> (line [m], key [m]): buckets within rows of one key; None: one bucket.
        first: how many different signatures of a bucket, the earliest, a row is compared with. In a bucket of more
            (a flood of one motif) only copies of the earliest ones are found.
    """

    alike: Callable[[np.ndarray, np.ndarray], np.ndarray]
    fine: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None
    first: int


@dataclass(frozen=True)
class _Buckets:
    """Rows, and a line for each bucket of each of them: the bucket's `key` and which row (`at`)."""

    rows: np.ndarray
    key: np.ndarray
    at: np.ndarray

    def chosen(self, lines: "np.ndarray | slice") -> "_Buckets":
        """Some of the lines, by a mask or by number; all rows."""
        return _Buckets(self.rows, self.key[lines], self.at[lines])

    @property
    def order(self) -> np.ndarray:
        return self.rows["order"][self.at]

    @property
    def signature(self) -> np.ndarray:
        return self.rows["signature"][self.at]


def find_in(pieces: Iterable[np.ndarray], rule: Rule, limit: int) -> np.ndarray:
    """The drops of a partition, sorted by the order of rows.

    Args:
        pieces: rows of the partition; gone through twice where they are more than `limit` bytes.
    """
    held: list[np.ndarray] = []
    size, allowed, whole = 0, limit, True
    for piece in pieces:
        held.append(piece)
        size += piece.nbytes
        if size > allowed:
            # A picture that half the world posted: only the earliest rows of its bucket are kept, and all rows are
            # compared with them as they come by a second time.
            held, whole = [_earliest(_buckets(_joined(held), rule), rule).rows], False
            size = held[0].nbytes
            allowed = max(limit, 2 * size)
    if not held:
        return np.empty(0, DROP)
    rows = _joined(held)
    if whole:
        buckets = _buckets(rows[_shared(rows["key"])], rule)
        buckets = buckets.chosen(_shared(buckets.key))
        return _compare(_earliest(buckets, rule), buckets, rule)
    kept = _earliest(_buckets(rows, rule), rule)
    return earliest_drops(np.concatenate([_compare(kept, _buckets(piece, rule), rule) for piece in pieces]))


def _joined(held: list[np.ndarray]) -> np.ndarray:
    rows = np.concatenate(held)
    held.clear()
    return rows


def _shared(keys: np.ndarray) -> np.ndarray:
    """Numbers of the keys that come more than once, sorted by key: few in most collections."""
    order = np.argsort(keys)
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    shared = np.zeros(len(keys), bool)
    shared[1:] |= same
    shared[:-1] |= same
    return order[shared]


def _buckets(rows: np.ndarray, rule: Rule) -> _Buckets:
    if rule.fine is None:
        return _Buckets(rows, rows["key"].copy(), np.arange(len(rows)))
    at, key = rule.fine(rows["signature"])
    return _Buckets(rows, mix(key ^ mix(rows["key"][at])), at)


def _earliest(buckets: _Buckets, rule: Rule) -> _Buckets:
    """Of each bucket the `first` earliest rows with different signatures, sorted by key, then by order; only their rows."""
    # Two signatures of a bucket count as one if 64 bits of them are equal: once in 10^7 partitions.
    seen = mix(_mixed(buckets.rows["signature"])[buckets.at] ^ buckets.key)
    order = np.lexsort((buckets.order, seen))
    buckets, seen = buckets.chosen(order), seen[order]
    buckets = buckets.chosen(np.concatenate([np.ones(len(seen[:1]), bool), seen[1:] != seen[:-1]]))
    buckets = buckets.chosen(np.lexsort((buckets.order, buckets.key)))
    buckets = buckets.chosen(_rank(buckets.key) < rule.first)
    used, at = np.unique(buckets.at, return_inverse=True)
    return _Buckets(buckets.rows[used], buckets.key, at)


def _rank(keys: np.ndarray) -> np.ndarray:
    """Place of each element among the equal ones of a sorted array."""
    starts = np.flatnonzero(np.concatenate([np.ones(len(keys[:1]), bool), keys[1:] != keys[:-1]]))
    return np.arange(len(keys)) - np.repeat(starts, np.diff(np.append(starts, len(keys))))


def _compare(kept: _Buckets, buckets: _Buckets, rule: Rule) -> np.ndarray:
    """Drops among rows: those that are alike to an earlier one of a bucket that is kept."""
    lines = buckets.chosen(buckets.order >= FIRST)  # published rows stay
    place, end = (np.searchsorted(kept.key, lines.key, side) for side in ("left", "right"))
    drops = [np.empty(0, DROP)]
    while True:
        left = place < end
        lines, place, end = lines.chosen(left), place[left], end[left]
        left = kept.rows["order"][kept.at[place]] < lines.order
        lines, place, end = lines.chosen(left), place[left], end[left]
        if not len(place):
            return earliest_drops(np.concatenate(drops))
        found = _alike(kept, place, lines, rule)
        drop = np.empty(int(found.sum()), DROP)
        drop["order"], drop["of"] = lines.order[found], kept.chosen(place[found]).order
        drops.append(drop)
        lines, place, end = lines.chosen(~found), place[~found] + 1, end[~found]


def _alike(kept: _Buckets, place: np.ndarray, lines: _Buckets, rule: Rule) -> np.ndarray:
    """Whether the row of each line is alike to the one at its place in `kept`; copies share most of their buckets."""
    pairs, again = np.unique(kept.at[place] * len(lines.rows) + lines.at, return_inverse=True)
    found = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), PAIRS):
        part = slice(start, start + PAIRS)
        one, other = np.divmod(pairs[part], len(lines.rows))
        found[part] = rule.alike(kept.rows["signature"][one], lines.rows["signature"][other])
    return found[again]


def earliest_drops(drops: np.ndarray) -> np.ndarray:
    """One for each row, the earliest, sorted by the order of rows."""
    drops = drops[np.lexsort((drops["of"], drops["order"]))]
    return drops[np.diff(drops["order"], prepend=-1) != 0]


def _mixed(signatures: np.ndarray) -> np.ndarray:
    """64 bits of each signature: equal signatures, equal bits."""
    count, size = signatures.shape
    words = -(-size // 8)
    padded = np.zeros((count, words * 8), np.uint8)
    padded[:, :size] = signatures
    mixed = np.zeros(count, np.uint64)
    for word in padded.view(np.uint64).T:
        mixed = mix(mixed ^ word)
    return mixed


def mix(values: np.ndarray) -> np.ndarray:
    """uint64 -> uint64, one to one, each bit depending on all (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
