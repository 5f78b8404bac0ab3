"""What a picture looks like, in NEAR_BYTES bytes, and whether two pictures are copies of one: resized, or encoded again.

```
0               shape: width / height in steps of 2.2 %
1               shortest side, pixels; 255: that or more
2    ... 1025   32 x 32 means of luma
1026 ... 1153   8 x 8 means of Cb, then of Cr
```
Copies are told from look-alikes by tolerances that were measured (docs/benchmarks/dedup.md). What encoding and resizing
change is small where a picture is smooth, and grows with the contrast around a place: so does the tolerance. A picture
that is smooth all over (a plain colour, a gradient) says too little: it is near to nothing.

A copy differs a little at all of its edges, a look-alike (another face, a tear, a border) much at one place and hardly
elsewhere. So the largest difference is also held against what the tenth of the picture that differs most has in common.
"""

import numpy as np

from data_pipeline.ingest.resize import opencv

NEAR_VERSION, NEAR_BYTES = 2, 1154
"""A hash of another version says nothing here: units that hold such ones are made anew."""

SHAPE, SIDE, LUMA, CHROMA = 0, 1, slice(2, 1026), (slice(1026, 1090), slice(1090, 1154))

SHAPE_STEPS = 2
"""Shapes of copies are at most this far apart: a side of 43 pixels that had to be rounded makes half a step."""

ROUGH, COLOUR, FINE = (3, 0.15), (3.75, 0.125), (4, 0.05)
"""Difference of a cell that counts as 1, in levels, and what each level of contrast with its neighbours adds: in the 8 x 8
cells of luma, in those of Cb and Cr, in the 32 x 32 of luma."""

ALONE, LARGE, ALONE_LARGE = 1.6, 128, 1.95
"""Most that a cell of the 32 x 32 may differ, divided by 1 + what a tenth of the cells exceed. Resizing does more to the thin
lines of pictures whose shortest side is more than LARGE pixels: there, the second."""

OVERALL = 0.5
"""Most standard deviation of the differences in the 32 x 32 (a drawing moved by half a pixel differs at every edge)."""

SMALL, SMALL_FINE = 64, 96
"""Pixels of a shortest side, below which cells (of 8 x 8, of 32 x 32) are so small that encoding moves them more: tolerances
grow in proportion."""

PLAIN = 1.2
"""Levels (root mean square) that have to be left of a picture when its mean and its slopes are taken away."""


def perceptual_hash(pixels: np.ndarray) -> bytes:
    """uint8 [height, width, 3], RGB -> NEAR_BYTES bytes."""
    cv2 = opencv()
    height, width = pixels.shape[:2]
    small = cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA).astype(np.int32)
    red, green, blue = small[..., 0], small[..., 1], small[..., 2]
    luma = (299 * red + 587 * green + 114 * blue + 500) // 1000
    shape = round(32 * np.log2(width / height)) + 128
    cb, cr = (_sums(part, 8) // 16_000 + 128 for part in (564 * (blue - luma) + 500, 713 * (red - luma) + 500))
    parts = ([shape, min(height, width)], luma, cb, cr)  # red is 256 in Cr
    return b"".join(np.clip(part, 0, 255).astype(np.uint8).tobytes() for part in parts)


def _sums(values: np.ndarray, size: int) -> np.ndarray:
    """[n, n] -> [size, size], sums of the cells."""
    step = len(values) // size
    return values.reshape(size, step, size, step).sum(axis=(1, 3))


def rough_luma(hashes: np.ndarray) -> np.ndarray:
    """uint8 [n, NEAR_BYTES] -> uint8 [n, 64], 8 x 8 means of luma."""
    rows = hashes[:, LUMA].reshape(-1, 8, 4, 32).astype(np.uint16)
    rows = rows[:, :, 0] + rows[:, :, 1] + rows[:, :, 2] + rows[:, :, 3]  # by hand: ten times as fast as sums of axes
    cells = rows[:, :, 0::4] + rows[:, :, 1::4] + rows[:, :, 2::4] + rows[:, :, 3::4]
    return ((cells + 8) // 16).astype(np.uint8).reshape(-1, 64)


def near(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """uint8 [n, NEAR_BYTES] twice -> bool [n]: whether the two pictures of a line are copies of one.

    Not transitive: of a series that changes little by little, neighbours are near and the ends are not.
    """
    # The cheap tests first, with the largest tolerance there can be: most lines end here.
    good = np.flatnonzero(_apart(one[:, SHAPE], other[:, SHAPE]) <= SHAPE_STEPS)
    side = np.minimum(one[:, SIDE], other[:, SIDE]).clip(1).astype(np.float32)
    scale = (SMALL / side).clip(1)
    for part in CHROMA:
        most = _apart(one[good, part], other[good, part]).max(axis=1, initial=0)
        good = good[most <= (COLOUR[0] + 255 * COLOUR[1]) * scale[good]]
    rough = rough_luma(one[good]), rough_luma(other[good])
    good = good[_exceeds(*rough, *ROUGH).max(axis=1, initial=0) <= scale[good]]
    for part in CHROMA:
        good = good[_exceeds(one[good, part], other[good, part], *COLOUR).max(axis=1, initial=0) <= scale[good]]
    good = good[_fine(one[good, LUMA], other[good, LUMA], side[good], np.maximum(one[good, SIDE], other[good, SIDE]))]
    good = good[~plain(one[good]) & ~plain(other[good])]
    alike = np.zeros(len(one), bool)
    alike[good] = True
    return alike


def _fine(one: np.ndarray, other: np.ndarray, side: np.ndarray, larger: np.ndarray) -> np.ndarray:
    """uint8 [n, 1024] twice, float32 [n], uint8 [n] -> bool [n]: cells differ little, and none much more than others.

    `side` and `larger`: shortest sides of the smaller and of the larger picture of each line.
    """
    by = _exceeds(one, other, *FINE)
    overall = by.std(axis=1) / (SMALL / side).clip(1) ** 2
    tenth = by.shape[1] * 9 // 10
    by.partition((tenth, by.shape[1] - 1), axis=1)
    largest = by[:, -1] / (SMALL_FINE / side).clip(1)
    alone = np.where(larger > LARGE, ALONE_LARGE, ALONE)
    return (overall <= OVERALL) & (largest <= alone * (1 + by[:, tenth]))


def _exceeds(one: np.ndarray, other: np.ndarray, base: float, slope: float) -> np.ndarray:
    """uint8 [n, cells of a square] twice -> float32 [n, cells]: differences, in what their contrast lets expect."""
    size = int(one.shape[1] ** 0.5)
    grids = [side.reshape(-1, size, size) for side in (one, other)]
    contrast = np.maximum(*(_contrast(grid) for grid in grids)).reshape(one.shape)
    return _apart(one, other) / (np.float32(base) + np.float32(slope) * contrast)


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
    down, across = np.indices((8, 8)).reshape(2, -1) * 2 - 7  # odd numbers around 0
    for part in (rough_luma(hashes), *(hashes[:, part] for part in CHROMA)):
        values = part.astype(np.float64)
        left += (values**2).sum(axis=1) - values.sum(axis=1) ** 2 / 64
        for slope in (down, across):
            left -= (values @ slope) ** 2 / (slope**2).sum()
    return left < 64 * PLAIN**2
