"""Samples into rows of fixed length: full to the last token, and alike in what the encoder has to do for them.

The longest sample that is left opens a row. Pieces of random length follow, each the best of eight for a row whose vision
is the average, until two or three are missing; these are looked up by their exact length (the pair whose vision is nearest).
A table of samples by length makes that a walk over lengths: 1 to 4 us a row, whatever the number of samples.
"""

import numpy as np
from numpy.typing import NDArray

NO_LIMIT = 1 << 40


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
    from data_pipeline.stream.plan.kernels import BINS, fill_rows

    wide = tokens.astype(np.int64)
    late = np.flatnonzero(age >= max_age)
    seeds = late[np.argsort(-wide[late], kind="stable")]
    bins = np.empty(len(wide), np.int64)
    bins[np.argsort(wide, kind="stable")] = np.arange(len(wide)) * BINS // max(1, len(wide))
    limits = (NO_LIMIT if max_images is None else max_images, NO_LIMIT if max_patches is None else max_patches)
    found: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] = fill_rows(
        wide, vision.astype(np.int64), images.astype(np.int64), bins, seeds, rows, length, *limits, final
    )
    return found
