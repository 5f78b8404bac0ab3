"""Compiled loops over pixels. Bicubic resampling with antialiasing: Pillow's passes to the byte, in a quarter of the time.

Pillow (8-bit, `Resampling.BICUBIC`) sums pixels times fixed-point weights, first along rows, then along columns, and rounds
in between. (From version 13 on it sometimes goes down the columns first, which changes a pixel by one level here and there;
here it is rows first always.) The sums are integers, so their order is free: here the inner loop runs over neighbours that share a weight, which
compilers turn into vector instructions. Rows are turned on their side in strips for the first pass.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data_pipeline.stream.compiled import compiled

BITS = 22
HALF = 1 << (BITS - 1)
STRIP = 64
"""Rows that are turned together: what they hold stays in the cache."""

Pixels = NDArray[np.uint8]
Weights = tuple[NDArray[np.int64], NDArray[np.int32]]


def bicubic(picture: Pixels, width: int, height: int) -> Pixels:
    """[H, W, 3] -> [height, width, 3], as `Image.resize` would with `Resampling.BICUBIC`, to `width` and then to `height`."""
    out = np.empty((height, width, 3), np.uint8)
    across = weights(picture.shape[1], width)
    down = weights(picture.shape[0], height)
    _resample(np.ascontiguousarray(picture), *across, *down, out, picture.shape[1] != width, picture.shape[0] != height)
    return out


@lru_cache(maxsize=1024)
def weights(size: int, wanted: int) -> Weights:
    """(first pixel and how many [wanted, 2], fixed-point weights [wanted, taps]) of each output pixel along a side."""
    bounds = np.zeros((wanted, 2), np.int64)
    table = np.zeros((wanted, math.ceil(2.0 * max(size / wanted, 1.0)) * 2 + 1), np.int32)
    _weights(size, bounds, table, np.empty(table.shape[1], np.float64))
    for array in (bounds, table):
        array.flags.writeable = False  # cached: shared by all pictures of this size
    return bounds, table


@compiled
def _cubic(x):  # type: ignore[no-untyped-def]
    """Keys' kernel with a = -0.5 (Keys 1981)."""
    a, x = -0.5, abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * a
    return 0.0


@compiled
def _weights(size, bounds, table, values):  # type: ignore[no-untyped-def]
    wanted = len(bounds)
    scale = size / wanted
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    for place in range(wanted):
        center = (place + 0.5) * scale
        first = max(0, int(center - support + 0.5))
        count = min(size, int(center + support + 0.5)) - first
        total = 0.0
        for x in range(count):
            values[x] = _cubic((x + first - center + 0.5) * (1.0 / stretch))
            total += values[x]
        for x in range(count):
            part = values[x] / total * (1 << BITS) if total else values[x] * (1 << BITS)
            table[place, x] = int(part - 0.5) if part < 0 else int(part + 0.5)
        bounds[place, 0], bounds[place, 1] = first, count


@compiled
def cut_patches(view, patch, merge, out):  # type: ignore[no-untyped-def]
    """Patches of a view [H, W, 3] into `out` [P, 3 * patch * patch], channel first; merge x merge neighbours together."""
    across, area = view.shape[1] // (patch * merge), patch * patch
    for token in range(len(out) // (merge * merge)):
        top, left = token // across * patch * merge, token % across * patch * merge
        for part in range(merge * merge):
            row = out[token * merge * merge + part]
            y0, x0 = top + part // merge * patch, left + part % merge * patch
            for y in range(patch):
                for x in range(patch):
                    place = y * patch + x
                    row[place] = view[y0 + y, x0 + x, 0]
                    row[area + place] = view[y0 + y, x0 + x, 1]
                    row[2 * area + place] = view[y0 + y, x0 + x, 2]


@compiled
def _weighed(rows, first, count, weights, sums):  # type: ignore[no-untyped-def]
    """Sums of `count` rows from `first`, each times its weight; two at a time, so that sums are loaded half as often."""
    for j in range(len(sums)):
        sums[j] = HALF
    tap = 0
    while tap + 1 < count:
        one, other, w, v = rows[first + tap], rows[first + tap + 1], weights[tap], weights[tap + 1]
        for j in range(len(sums)):
            sums[j] = np.int32(sums[j] + np.int32(np.int32(one[j]) * w) + np.int32(np.int32(other[j]) * v))
        tap += 2
    if tap < count:
        one, w = rows[first + tap], weights[tap]
        for j in range(len(sums)):
            sums[j] = np.int32(sums[j] + np.int32(np.int32(one[j]) * w))


@compiled
def _resample(source, starts, table, down_starts, down_table, out, across, down):  # type: ignore[no-untyped-def]
    rows, columns, _ = source.shape
    height, width, _ = out.shape
    middle = np.empty((rows, width * 3), np.uint8)
    if across:
        _along_rows(source, starts, table, middle)
    else:
        for y in range(rows):
            for x in range(columns):
                for c in range(3):
                    middle[y, x * 3 + c] = source[y, x, c]
    sums = np.empty(width * 3, np.int32)
    for y in range(height):
        if not down:
            for x in range(width):
                for c in range(3):
                    out[y, x, c] = middle[y, x * 3 + c]
            continue
        first = down_starts[y, 0]
        _weighed(middle, first, down_starts[y, 1], down_table[y], sums)
        for x in range(width):
            for c in range(3):
                value = sums[x * 3 + c] >> BITS
                out[y, x, c] = 0 if value < 0 else (255 if value > 255 else value)


@compiled
def _along_rows(source, starts, table, middle):  # type: ignore[no-untyped-def]
    rows, columns, _ = source.shape
    width = len(starts)
    strip, turned = np.zeros((columns, STRIP * 3), np.uint8), np.empty((width, STRIP * 3), np.uint8)
    sums = np.empty(STRIP * 3, np.int32)
    for top in range(0, rows, STRIP):
        count = min(STRIP, rows - top)
        for y in range(count):
            for x in range(columns):
                strip[x, y * 3] = source[top + y, x, 0]
                strip[x, y * 3 + 1] = source[top + y, x, 1]
                strip[x, y * 3 + 2] = source[top + y, x, 2]
        for x in range(width):
            first = starts[x, 0]
            _weighed(strip, first, starts[x, 1], table[x], sums)
            for j in range(STRIP * 3):
                value = sums[j] >> BITS
                turned[x, j] = 0 if value < 0 else (255 if value > 255 else value)
        for y in range(count):
            for x in range(width):
                middle[top + y, x * 3] = turned[x, y * 3]
                middle[top + y, x * 3 + 1] = turned[x, y * 3 + 1]
                middle[top + y, x * 3 + 2] = turned[x, y * 3 + 2]
