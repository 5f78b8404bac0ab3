"""What a picture looks like, in NEAR_BYTES bytes, and whether two pictures are copies of one: resized, or encoded again.

```
0            shape: width / height in steps of 2.2 %
1   ... 64   8 x 8 means of luma
65  ... 96   4 x 4 means of Cb, then of Cr
97  ... 192  what 16 x 16 means of luma add: three differences in each of the 8 x 8 cells, 4 bits each, finer near 0
```
Copies are told from look-alikes by tolerances that were measured (docs/benchmarks/dedup.md). What encoding and resizing
change is small where a picture is smooth, and grows with the contrast around a place: so does the tolerance. A picture
that is smooth all over (a plain colour, a gradient) says too little: it is near to nothing.
"""

import numpy as np

from data_pipeline.ingest.resize import opencv

NEAR_BYTES = 193
SHAPE, LUMA, CHROMA, DETAIL = 0, slice(1, 65), slice(65, 97), slice(97, 193)

STEPS = np.array([2, 6.5, 12.5, 21, 34, 55, 89]) * 16
"""Where the codes of differences begin, in sixteenths of a level. Codes of copies are at most one apart."""

SHAPE_STEPS = 2
"""Shapes of copies are at most this far apart: a side of 43 pixels that had to be rounded makes half a step."""

LUMA_TOLERANCE, CHROMA_TOLERANCE = (300, 9), (300, 15)
"""Most difference of copies in hundredths of a level, and what each level of contrast with the neighbours adds."""

PLAIN = 2
"""Levels (root mean square) that have to be left of a picture when its mean and its slopes are taken away."""


def perceptual_hash(pixels: np.ndarray) -> bytes:
    """uint8 [height, width, 3], RGB -> NEAR_BYTES bytes."""
    cv2 = opencv()
    small = cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA).astype(np.int32)
    red, green, blue = small[..., 0], small[..., 1], small[..., 2]
    luma = (299 * red + 587 * green + 114 * blue + 500) // 1000
    fine = _sums(luma, 16)  # quarters of a level
    a, b, c, d = fine[0::2, 0::2], fine[0::2, 1::2], fine[1::2, 0::2], fine[1::2, 1::2]
    details = np.stack([a + b - c - d, a - b + c - d, a - b - c + d])
    codes = (7 + np.sign(details) * np.searchsorted(STEPS, np.abs(details), side="right")).astype(np.uint8).ravel()
    shape = round(32 * np.log2(pixels.shape[1] / pixels.shape[0])) + 128
    cb, cr = (_sums(part, 4) // 64_000 + 128 for part in (564 * (blue - luma) + 500, 713 * (red - luma) + 500))
    parts = ([min(max(shape, 0), 255)], (a + b + c + d + 8) // 16, cb, cr, codes[0::2] << 4 | codes[1::2])
    return b"".join(np.asarray(part, np.uint8).tobytes() for part in parts)


def _sums(values: np.ndarray, size: int) -> np.ndarray:
    """[n, n] -> [size, size], sums of the cells."""
    step = len(values) // size
    return values.reshape(size, step, size, step).sum(axis=(1, 3))


def near(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """uint8 [n, NEAR_BYTES] twice -> bool [n]: whether the two pictures of a line are copies of one.

    Not transitive: of a series that changes little by little, neighbours are near and the ends are not.
    """
    good = np.arange(len(one))
    # The cheap tests first, with the largest tolerance there can be: most lines end here.
    good = good[_apart(one[good, SHAPE], other[good, SHAPE]) <= SHAPE_STEPS]
    for part, (base, slope) in ((LUMA, LUMA_TOLERANCE), (CHROMA, CHROMA_TOLERANCE)):
        good = good[(_apart(one[good, part], other[good, part]) <= (base + 255 * slope) // 100).all(axis=1)]
    for shift in (4, 0):
        first, second = (side[good, DETAIL] >> shift & 15 for side in (one, other))
        good = good[(_apart(first, second) <= 1).all(axis=1)]
    for part, size, tolerance in (
        (LUMA, 8, LUMA_TOLERANCE),
        (slice(65, 81), 4, CHROMA_TOLERANCE),
        (slice(81, 97), 4, CHROMA_TOLERANCE),
    ):
        good = good[_within(one[good, part], other[good, part], size, *tolerance)]
    good = good[~plain(one[good]) & ~plain(other[good])]
    alike = np.zeros(len(one), bool)
    alike[good] = True
    return alike


def _within(one: np.ndarray, other: np.ndarray, size: int, base: int, slope: int) -> np.ndarray:
    """uint8 [n, size x size] twice -> bool [n]: every cell differs by no more than its contrast allows."""
    grids = [side.reshape(-1, size, size) for side in (one, other)]
    contrast = np.maximum(*(_contrast(grid) for grid in grids)).astype(np.int32)
    return (100 * _apart(*grids).astype(np.int32) <= base + slope * contrast).all(axis=(1, 2))


def _contrast(grid: np.ndarray) -> np.ndarray:
    """[n, size, size] -> the same: largest minus smallest of each cell and its neighbours."""
    high = low = grid
    for axis in (1, 2):
        high, low = _spread(high, np.maximum, axis), _spread(low, np.minimum, axis)
    return high - low


def _spread(grid: np.ndarray, choose: np.ufunc, axis: int) -> np.ndarray:
    """Each cell becomes the chosen one of itself and its two neighbours along an axis."""
    turned = np.moveaxis(grid, axis, 0)
    spread = turned.copy()
    choose(spread[1:], turned[:-1], out=spread[1:])
    choose(spread[:-1], turned[1:], out=spread[:-1])
    return np.moveaxis(spread, 0, axis)


def _apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.maximum(one, other) - np.minimum(one, other)


def plain(hashes: np.ndarray) -> np.ndarray:
    """uint8 [n, NEAR_BYTES] -> bool [n]: too smooth to be told from other pictures."""
    left = np.zeros(len(hashes))
    for part, size in ((LUMA, 8), (slice(65, 81), 4), (slice(81, 97), 4)):
        values = hashes[:, part].astype(np.float64)
        down, across = np.indices((size, size)).reshape(2, -1) * 2 - (size - 1)  # odd numbers around 0
        rest = (values**2).sum(axis=1) - values.sum(axis=1) ** 2 / size**2
        for slope in (down, across):
            rest -= (values @ slope) ** 2 / (slope**2).sum()
        left += rest * (64 // size**2)
    return left < 64 * PLAIN**2
