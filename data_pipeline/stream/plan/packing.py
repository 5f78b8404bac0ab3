"""Samples into rows of fixed length: full to the last token, and alike in what the encoder has to do for them.

The longest sample that is left opens a row. Pieces of random length follow, each the best of eight for a row whose vision
is the average, until two or three are missing; these are looked up by their exact length (the pair whose vision is nearest).
A table of samples by length makes that a walk over lengths: 1 to 4 us a row, whatever the number of samples.
"""

import numpy as np
from numpy.typing import NDArray

NO_LIMIT = 1 << 40
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
    from data_pipeline.stream.plan.kernels import BINS, Limits, Samples, fill_rows

    wide, count = tokens.astype(np.int64), len(tokens)
    by_length = np.argsort(wide, kind="stable")
    bins = np.empty(count, np.int64)
    bins[by_length] = np.arange(count) * BINS // max(1, count)
    late = np.flatnonzero(age >= max_age)
    late = late[np.argsort(-wide[late], kind="stable")]
    # Where a row hardly holds two samples there is little to choose, and what is long must find its match early.
    few = 2 * count * length < FEW * wide.sum()
    limits = Limits(
        length, NO_LIMIT if max_images is None else max_images, NO_LIMIT if max_patches is None else max_patches
    )
    samples = Samples(wide, vision.astype(np.int64), images.astype(np.int64), bins)
    openers = by_length[::-1].copy() if few else np.zeros(0, np.int64)
    found: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] = fill_rows(
        samples, late, openers, rows, limits, final
    )
    return found
