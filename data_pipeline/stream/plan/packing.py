"""Samples into rows of fixed length: full to the last token, and alike in what the encoder has to do for them.

A sample of the length that has most left opens a row (the longest, where a row hardly holds two). Pieces follow, each the
best of four for a row whose vision is the average, until two or three are missing; these are looked up by their exact length
(the pair whose vision is nearest). A table of samples by length makes that a walk over lengths, whatever their number. A
window stays as varied to its last row: then these are full too, and nothing but the spare rows' worth is carried.
"""

import numpy as np
from numpy.typing import NDArray

NO_LIMIT = 1 << 40
SEED = 0x9E3779B97F4A7C15
FEW = 5
"""Half samples of a row below which the longest opens a row."""


def pack(
    tokens: NDArray[np.int32],
    vision: NDArray[np.int32],
    images: NDArray[np.int32],
    age: NDArray[np.int32],
    rows: int,
    length: int,
    *,
    max_images: int | None = None,
    max_patches: int | None = None,
    max_age: int = 2,
    final: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Put samples into exactly `rows` rows; a pure function.

    Args:
        tokens: [n] of each sample, 1 to `length`.
        vision: [n] patches of each.
        images: [n] pictures of each.
        age: [n] windows that each has waited; from `max_age` on it is placed before all others.
        max_images, max_patches: of a row; a sample that has more opens a row all the same.
        final: place everything, in as many rows as that takes.

    Returns:
        (order [m], starts [rows + 1], left [k]): row r holds samples order[starts[r]:starts[r + 1]]; `left` ascends.
    """
    from data_pipeline.stream.plan.fill import BINS, SUMS, Limits, Samples, Stock, fill_rows

    wide, count = tokens.astype(np.int64), len(tokens)
    by_length = np.argsort(wide, kind="stable")
    bins = np.empty(count, np.int64)
    bins[by_length] = np.arange(count) * BINS // max(1, count)
    late = np.flatnonzero(age >= max_age)
    late = late[np.argsort(-wide[late], kind="stable")]
    # Where a row hardly holds two samples there is little to choose, and what is long must find its match early.
    few = 2 * count * length < FEW * wide.sum()
    openers = by_length[::-1].copy() if few else np.zeros(0, np.int64)
    limits = Limits(
        length, NO_LIMIT if max_images is None else max_images, NO_LIMIT if max_patches is None else max_patches
    )
    samples = Samples(wide, vision.astype(np.int64), images.astype(np.int64), bins)
    heads, (after, before, place) = np.full(length + 1, -1, np.int64), np.full((3, count), -1, np.int64)
    slots, sums = np.empty(BINS * (count // BINS + 1), np.int64), np.zeros(SUMS + BINS, np.int64)
    stock = Stock(heads, after, before, slots, place, sums, np.array([SEED], np.uint64))
    order, tried, best = np.empty((3, count), np.int64)
    starts = np.zeros((count if final else rows) + 1, np.int64)
    made, placed = fill_rows(samples, stock, late, openers, order, starts, tried, best, limits)
    if final:
        starts = starts[: made + 1]
    starts[made + 1 :] = placed
    return order[:placed], starts, np.flatnonzero(stock.place != -1)
