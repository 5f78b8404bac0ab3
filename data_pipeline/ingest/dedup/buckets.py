"""Rows of one partition -> drops: within a bucket (rows of one key) each row is compared with the earliest ones.

Rows are a structured array: `key` (its bucket), `order` (published rows first, then by position: drops.FIRST) and
`signature` (bytes that are compared). What comes out does not depend on the order in which rows come in.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from data_pipeline.ingest.dedup.drops import FIRST

Alike = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(signatures [n, bytes], signatures [n, bytes]) -> bool [n]."""

PAIRS = 1 << 18
"""Pairs compared at a time: 48 MB of signatures and what comparing them needs."""

DROP = np.dtype([("order", np.int64), ("of", np.int64)])
"""A row to drop, and the earliest row that it is a duplicate of; both as `order`."""


def row_type(signature: int) -> np.dtype:
    """Type of rows with `signature` bytes."""
    return np.dtype([("key", np.uint64), ("order", np.int64), ("signature", np.uint8, (signature,))])


def order_of(position: np.ndarray, published: np.ndarray) -> np.ndarray:
    return np.where(published, position, position | FIRST)


def position_of(order: np.ndarray) -> np.ndarray:
    return order & (FIRST - 1)


class Arrays(Protocol):
    """Pieces of a partition; may be gone through more than once, a piece in memory at a time."""

    def __iter__(self) -> "Iterable[np.ndarray]": ...


def find_in(pieces: Iterable[np.ndarray], alike: Alike, first: int, limit: int) -> np.ndarray:
    """The drops of a partition.

    Args:
        pieces: rows of the partition; gone through twice where they are more than `limit` bytes.
        first: how many different signatures of a bucket, the earliest, rows are compared with.
    """
    held: list[np.ndarray] = []
    size, allowed, whole = 0, limit, True
    for piece in pieces:
        held.append(np.array(piece))
        size += piece.nbytes
        if size > allowed:
            # A picture that half the world posted: of its bucket only the earliest rows are kept, and all rows
            # are compared with them as they come by a second time.
            held, whole = [earliest(np.concatenate(held), first)], False
            size = held[0].nbytes
            allowed = max(limit, 2 * size)
    if not held:
        return np.empty(0, DROP)
    rows = np.concatenate(held)
    del held
    if whole:
        rows = _shared(rows)
        return compare(earliest(rows, first), rows, alike)
    kept = earliest(rows, first)
    return np.concatenate([compare(kept, piece, alike) for piece in pieces])


def _shared(rows: np.ndarray) -> np.ndarray:
    """The rows whose bucket holds another one: few in most collections."""
    order = np.argsort(rows["key"])
    keys = rows["key"][order]
    same = keys[1:] == keys[:-1]
    shared = np.zeros(len(rows), bool)
    shared[1:] |= same
    shared[:-1] |= same
    return rows[order[shared]]


def earliest(rows: np.ndarray, first: int) -> np.ndarray:
    """Of each bucket the `first` earliest rows with different signatures, sorted by (key, order)."""
    rows = rows[np.lexsort((rows["order"], rows["key"]))]
    mixed = _mixed(rows["signature"])
    order = np.lexsort((mixed, rows["key"]))  # stable: of equal ones the earliest stays first
    keys, mixed = rows["key"][order], mixed[order]
    again = np.zeros(len(rows), bool)
    if len(rows):
        equal = (keys[1:] == keys[:-1]) & (mixed[1:] == mixed[:-1])
        at = np.flatnonzero(equal)
        equal[at] = (rows["signature"][order[at]] == rows["signature"][order[at + 1]]).all(axis=1)
        again[order[1:]] = equal
    rows = rows[~again]
    return rows[_rank(rows["key"]) < first]


def _rank(keys: np.ndarray) -> np.ndarray:
    """Place of each element among the equal ones of a sorted array."""
    if not len(keys):
        return np.empty(0, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    sizes = np.diff(np.append(starts, len(keys)))
    return np.arange(len(keys)) - np.repeat(starts, sizes)


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


def compare(kept: np.ndarray, rows: np.ndarray, alike: Alike) -> np.ndarray:
    """Drops among `rows`: those that are alike to an earlier one of their bucket in `kept` (from `earliest`)."""
    rows = rows[rows["order"] >= FIRST]  # published rows stay
    starts = np.searchsorted(kept["key"], rows["key"], "left")
    ends = np.searchsorted(kept["key"], rows["key"], "right")
    found = np.full(len(rows), -1, np.int64)
    waiting = np.arange(len(rows))
    rank = 0
    while len(waiting):
        at = starts[waiting] + rank
        waiting, at = waiting[at < ends[waiting]], at[at < ends[waiting]]
        earlier = kept["order"][at] < rows["order"][waiting]
        waiting, at = waiting[earlier], at[earlier]
        equal = np.concatenate(
            [np.empty(0, bool)]
            + [
                alike(kept["signature"][at[n : n + PAIRS]], rows["signature"][waiting[n : n + PAIRS]])
                for n in range(0, len(at), PAIRS)
            ]
        )
        found[waiting[equal]] = at[equal]
        waiting = waiting[~equal]
        rank += 1
    hit = found >= 0
    drops = np.empty(int(hit.sum()), DROP)
    drops["order"], drops["of"] = rows["order"][hit], kept["order"][found[hit]]
    return drops
