"""Visual tokens and patches of millions of pictures at once: the counts of `picture_layout`, by columns.

The same operations in the same order as resolution.py, on float64 and int64 arrays: IEEE arithmetic makes them equal to
the last bit, on any machine, and a property test compares them.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_pipeline.stream.geometry import Geometry
from data_pipeline.stream.resolution import arrangements
from data_pipeline.stream.row_column import whole_tokens

BLOCK = 1 << 14
"""Pictures measured together: their columns stay in the cache."""
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def measure(widths: ArrayLike, heights: ArrayLike, geometry: Geometry) -> tuple[Ints, Ints]:
    """(tokens [n], patches [n]) of pictures of widths [n] x heights [n] pixels.

    Raises:
        ValueError: a side below one pixel.
    """
    wide, high = np.asarray(widths, np.int64).reshape(-1), np.asarray(heights, np.int64).reshape(-1)
    if len(wide) and (wide.min() < 1 or high.min() < 1):
        worst = int(np.argmin(np.minimum(wide, high)))
        raise ValueError(f"a picture of {wide[worst]} x {high[worst]} pixels has no grid")
    tokens, cells = np.empty(len(wide), np.int64), np.empty(len(wide), np.int64)
    for start in range(0, len(wide), BLOCK):
        part = slice(start, start + BLOCK)
        tokens[part], cells[part] = _block(wide[part], high[part], geometry)
    return tokens, cells * geometry.merge**2


def _block(wide: Ints, high: Ints, geometry: Geometry) -> tuple[Ints | int, Ints | int]:
    square = geometry.side**2
    if geometry.mode == "square":
        return geometry.view_tokens(square), square
    if geometry.mode == "tiles":
        tiles = _tiles(wide, high, geometry)
        views = tiles + (tiles > 1) * int(geometry.thumbnail)
        return views * geometry.view_tokens(square), views * square
    if geometry.mode == "anyres":
        return _anyres(wide, high, geometry)
    if geometry.mode == "row_column":
        return _row_column(wide, high, geometry)
    count = _native(wide.astype(np.float64), high.astype(np.float64), geometry).astype(np.int64)
    return 1 if geometry.pooled else count, count


def _native(wide: Floats, high: Floats, geometry: Geometry) -> Floats:
    cell, least, most = geometry.cell, geometry.min_tokens, geometry.max_tokens
    smart = geometry.rounding == "smart_resize"
    rows, columns = np.rint(high / cell), np.rint(wide / cell)
    if not smart:
        rows, columns = np.maximum(rows, 1), np.maximum(columns, 1)
    count = rows * columns
    above, below = np.flatnonzero(count > most), np.flatnonzero(count < least)
    if len(above):
        w, h = wide[above], high[above]
        scale = np.sqrt(w * h / (most * cell * cell))
        if smart:
            r, c = np.maximum(1, np.floor(h / scale / cell)), np.maximum(1, np.floor(w / scale / cell))
        else:
            r, c = np.maximum(1, np.floor(h / cell / scale)), np.maximum(1, np.floor(w / cell / scale))
            r, c = np.minimum(r, most), np.minimum(c, np.maximum(1, np.floor(most / r)))
        rows[above], columns[above] = r, c
    if len(below):
        w, h = wide[below], high[below]
        scale = np.sqrt(least * cell * cell / (w * h))
        if smart:
            r, c = np.ceil(h * scale / cell), np.ceil(w * scale / cell)
        else:
            r, c = np.ceil(h / cell * scale), np.ceil(w / cell * scale)
            over = r * c > most
            c = np.where(over, np.maximum(1, np.floor(most / r)), c)
            r = np.where(over, np.minimum(r, most), r)
        rows[below], columns[below] = r, c
    count = rows * columns
    outside = np.flatnonzero((count < least) | (count > most))
    if len(outside):
        count[outside] = _within(np.minimum(rows[outside], columns[outside]), least, most)
    return count


def _within(short: Floats, least: int, most: int) -> Floats:
    """Tokens of the grids whose shorter side gives way until they lie within the limits."""
    short = np.minimum(short, most)
    count = short * np.floor(most / short)
    while (low := count < least).any():
        short[low] -= 1
        count[low] = short[low] * np.floor(most / short[low])
    return count


def _tiles(wide: Ints, high: Ints, geometry: Geometry) -> Ints:
    """Tiles of each picture, without its thumbnail."""
    aspect, area = wide / high, wide * high
    nearest, tiles = np.full(len(wide), np.inf), np.ones(len(wide), np.int64)
    for columns, rows in arrangements(geometry.min_tiles, geometry.max_tiles):
        distance = np.abs(aspect - columns / rows)
        better = distance == nearest
        better &= area > 0.5 * geometry.size**2 * columns * rows
        better |= distance < nearest
        np.minimum(nearest, distance, out=nearest)
        tiles[better] = columns * rows
    return tiles


def _anyres(wide: Ints, high: Ints, geometry: Geometry) -> tuple[Ints, Ints]:
    side, size = geometry.side, geometry.side * geometry.cell
    kept, wasted = np.zeros(len(wide), np.int64), np.full(len(wide), np.iinfo(np.int64).max)
    down, across = np.zeros(len(wide), np.int64), np.zeros(len(wide), np.int64)
    for rows, columns in geometry.tile_grids:
        scale = np.minimum(columns * size / wide, rows * size / high)
        used = np.minimum((wide * scale).astype(np.int64) * (high * scale).astype(np.int64), wide * high)
        waste = rows * columns * size * size - used
        better = (used > kept) | ((used == kept) & (waste < wasted))
        kept[better], wasted[better] = used[better], waste[better]
        down[better], across[better] = rows, columns
    tall, broad = down * side, across * side
    flat = wide * tall > broad * high
    tall_kept = tall - (tall - high * broad // wide) // 2 * 2
    broad_kept = broad - (broad - wide * tall // high) // 2 * 2
    kept_tokens = np.where(flat, tall_kept * (broad + 1), tall * (broad_kept + 1))
    return side**2 + kept_tokens, (1 + down * across) * side**2


def _row_column(wide: Ints, high: Ints, geometry: Geometry) -> tuple[Ints, Ints]:
    size, view = geometry.size, geometry.side**2
    flat, aspect = wide >= high, wide / high
    long = np.full(len(wide), geometry.longest, np.float64)
    short = np.trunc(np.where(flat, long / aspect, long * aspect))
    short = np.maximum(short + short % 2, 1)
    width, height = np.where(flat, long, short), np.where(flat, short, long)
    flat, aspect = width >= height, width / height
    long = np.ceil(np.where(flat, width, height) / size) * size
    short = np.ceil(np.trunc(np.where(flat, long / aspect, long * aspect)) / size) * size
    tiles = (np.maximum(long, short) > size) * (long // size) * (short // size)
    rows = np.where(flat, short, long) // size * (tiles > 0)
    tokens = tiles * (view + 2) + rows + whole_tokens(view)
    return tokens.astype(np.int64), ((tiles + 1) * view).astype(np.int64)
