"""One picture's size -> its views, grids and visual tokens, under any resolution policy. Pure; no pixels.

`picture_layout` is what the collator builds from; `measure` (measure.py) gives its counts for millions of pictures.
Sizes are width x height in pixels, grids are rows x columns of visual tokens. Where a published preprocessor decides by
comparing floats, the same operations are done here in the same order, so that the counts are exactly its own.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from configs.resolutions import Filter
from data_pipeline.stream.geometry import Geometry
from data_pipeline.stream.grids import grid_of, require_pixels
from data_pipeline.stream.row_column import mark_order, row_column, row_column_tokens, whole_tokens

if TYPE_CHECKING:  # layouts alone are asked for on login nodes, which need no numpy
    import numpy as np
    from numpy.typing import NDArray

NEWLINE = -1
"""In a slot order: the learned newline token, which no encoder output fills."""


class Canvas(NamedTuple):
    """The picture resized to width x height and laid on black at (left, top); `size` is (width, height) of it all.

    What lies outside is cut off: left and top below 0 leave the middle.
    """

    width: int
    height: int
    left: int
    top: int
    size: tuple[int, int]
    source: int = -1
    """Another canvas that it is resized from; -1: the picture."""
    squared: bool = False
    """The picture is laid in the middle of a square of `fill` before it is resized."""


class View(NamedTuple):
    """What the encoder sees at once: rows x columns of tokens, cut from a canvas at (left, top) pixels."""

    canvas: int
    left: int
    top: int
    rows: int
    columns: int


@dataclass(frozen=True)
class PictureLayout:
    """Everything about one picture that its size decides."""

    canvases: tuple[Canvas, ...]
    views: tuple[View, ...]
    tokens: int
    """Positions that it fills in a row, newlines among them."""
    outputs: int
    """(Merged) cells of its views, or one of each where it is pooled; more than are used where padding is dropped."""
    patches: int
    unpadded: tuple[int, int, int, int] | None = None
    """Anyres: (first row, end, first column, end) of the tiles' joint grid of tokens that are kept."""
    tiles: tuple[int, int] | None = None
    """Row_column: (rows, columns) of tiles before the last view, (0, 0) where it is the only one."""
    filter: Filter = "bicubic"
    fill: tuple[int, int, int] = (0, 0, 0)

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of tokens of each view."""
        return tuple((view.rows, view.columns) for view in self.views)


@lru_cache(maxsize=65536)
def picture_layout(width: int, height: int, geometry: Geometry, budget: int | None = None) -> PictureLayout:
    """The layout of a picture, with at most `budget` tokens where one is given.

    LLaVA-NeXT's 672 x 336 pixels: a base view and two tiles, a newline after each of 24 rows:

    >>> picture_layout(672, 336, Geometry(14, 1, "anyres", size=336, tile_grids=((1, 2), (2, 1)))).tokens == 24 * 24 + 24 * 49
    True

    Raises:
        ValueError: a side below one pixel, or the policy's least layout is above the budget.
    """
    require_pixels(width, height)
    if budget is not None and budget < least_tokens(geometry):
        raise ValueError(f"{budget} tokens are below the least of a picture ({least_tokens(geometry)})")
    if geometry.mode == "tiles":
        return _tiles(width, height, geometry, budget)
    if geometry.mode == "anyres":
        return _anyres(width, height, geometry, budget)
    if geometry.mode == "row_column":
        return _row_column(width, height, geometry, budget)
    if geometry.mode == "square":
        return _square(width, height, geometry)
    rows, columns = grid_of(width, height, geometry, None if geometry.pooled else budget)
    count, size = rows * columns, (columns * geometry.cell, rows * geometry.cell)
    tokens, outputs, patches = geometry.view_tokens(count), geometry.view_outputs(count), count * geometry.merge**2
    return PictureLayout((Canvas(*size, 0, 0, size),), (View(0, 0, 0, rows, columns),), tokens, outputs, patches)


def least_tokens(geometry: Geometry) -> int:
    """Tokens that any picture can be brought down to."""
    square = geometry.side**2
    if geometry.mode == "native":
        return 1 if geometry.pooled else geometry.min_tokens
    if geometry.mode == "tiles":
        return tiles_tokens(geometry.min_tiles, geometry)
    if geometry.mode == "row_column":
        return whole_tokens(square)
    return square + 1 if geometry.mode == "anyres" else geometry.view_tokens(square)


# ---- squares -------------------------------------------------------------------------------------------------


def _square(width: int, height: int, geometry: Geometry) -> PictureLayout:
    """One view. Sizes of `crop` are those of CLIP's preprocessor."""
    side, count = geometry.side, geometry.side**2
    pixels = max(geometry.size, side * geometry.cell)
    size, canvas = (pixels, pixels), Canvas(pixels, pixels, 0, 0, (pixels, pixels), squared=geometry.fit == "pad")
    if geometry.fit == "crop":
        short, long = min(width, height), max(width, height)
        long = int(pixels * long / short)
        wide, high = (pixels, long) if width <= height else (long, pixels)
        canvas = Canvas(wide, high, -((wide - pixels) // 2), -((high - pixels) // 2), size)
    views, patches = (View(0, 0, 0, side, side),), count * geometry.merge**2
    tokens, outputs = geometry.view_tokens(count), geometry.view_outputs(count)
    return PictureLayout((canvas,), views, tokens, outputs, patches, filter=geometry.filter, fill=geometry.fill)


# ---- tiles ---------------------------------------------------------------------------------------------------


def tiles_tokens(tiles: int, geometry: Geometry) -> int:
    """Visual tokens of a picture cut into so many tiles."""
    return (tiles + (geometry.thumbnail and tiles > 1)) * geometry.view_tokens(geometry.side**2)


@lru_cache(maxsize=256)
def arrangements(least: int, most: int) -> tuple[tuple[int, int], ...]:
    """(columns, rows) of every grid of `least` to `most` tiles, fewest tiles first."""
    grids = [(c, r) for c in range(1, most + 1) for r in range(1, most // c + 1) if c * r >= least]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


def _most_tiles(geometry: Geometry, budget: int | None) -> int:
    most = geometry.max_tiles
    while budget is not None and most > geometry.min_tiles and tiles_tokens(most, geometry) > budget:
        most -= 1
    return most


def _tiles(width: int, height: int, geometry: Geometry, budget: int | None) -> PictureLayout:
    """InternVL's dynamic preprocessing: the tile grid nearest in aspect; among equals a larger one for a larger picture."""
    aspect, area, best, nearest = width / height, width * height, (1, 1), math.inf
    for columns, rows in arrangements(geometry.min_tiles, _most_tiles(geometry, budget)):
        distance = abs(aspect - columns / rows)
        if distance < nearest or (distance == nearest and area > 0.5 * geometry.size**2 * columns * rows):
            nearest, best = distance, (columns, rows)
    canvases, views = _tile_views(best[1], best[0], 0, geometry)
    if geometry.thumbnail and len(views) > 1:
        canvases.append(_square_canvas(geometry))
        views.append(View(1, 0, 0, geometry.side, geometry.side))
    count, cells = len(views), geometry.side**2
    each = (geometry.view_tokens(cells), geometry.view_outputs(cells), cells * geometry.merge**2)
    tokens, outputs, patches = (count * n for n in each)
    return PictureLayout(tuple(canvases), tuple(views), tokens, outputs, patches, filter=geometry.filter)


def _square_canvas(geometry: Geometry) -> Canvas:
    pixels = geometry.side * geometry.cell
    return Canvas(pixels, pixels, 0, 0, (pixels, pixels))


def _tile_views(rows: int, columns: int, canvas: int, geometry: Geometry) -> tuple[list[Canvas], list[View]]:
    pixels, side = geometry.side * geometry.cell, geometry.side
    size = (columns * pixels, rows * pixels)
    views = [View(canvas, c * pixels, r * pixels, side, side) for r in range(rows) for c in range(columns)]
    return [Canvas(*size, 0, 0, size)], views


# ---- anyres --------------------------------------------------------------------------------------------------


def _anyres(width: int, height: int, geometry: Geometry, budget: int | None) -> PictureLayout:
    """LLaVA-NeXT: the grid that keeps most of the picture's pixels, then wastes least."""
    side, size = geometry.side, geometry.side * geometry.cell
    best, kept, wasted = None, 0, math.inf
    for rows, columns in geometry.tile_grids:
        if budget is not None and side**2 + _unpadded_tokens(width, height, rows, columns, side) > budget:
            continue
        scale = min(columns * size / width, rows * size / height)
        used = min(int(width * scale) * int(height * scale), width * height)
        waste = rows * columns * size * size - used
        if used > kept or (used == kept and waste < wasted):
            best, kept, wasted = (rows, columns), used, waste
    base = View(0, 0, 0, side, side)
    merged = geometry.merge**2
    if best is None:  # under a small budget: the base view alone, closed by one newline
        one = (_square_canvas(geometry),)
        return PictureLayout(one, (base,), side**2 + 1, side**2, side**2 * merged, filter=geometry.filter)
    (tiled,), views = _tile_views(*best, 1, geometry)
    area = unpadded(width, height, *best, side)
    tokens = side**2 + (area[1] - area[0]) * (area[3] - area[2] + 1)
    outputs = (1 + len(views)) * side**2
    canvases = (_square_canvas(geometry), _padded(width, height, tiled.size))
    return PictureLayout(canvases, (base, *views), tokens, outputs, outputs * merged, area, filter=geometry.filter)


def unpadded(width: int, height: int, rows: int, columns: int, side: int) -> tuple[int, int, int, int]:
    """Rows and columns (first, end, first, end) of the tiles' joint token grid that hold picture, not padding."""
    tall, wide = rows * side, columns * side
    if width * tall > wide * height:
        padding = (tall - height * wide // width) // 2
        return padding, tall - padding, 0, wide
    padding = (wide - width * tall // height) // 2
    return 0, tall, padding, wide - padding


def _unpadded_tokens(width: int, height: int, rows: int, columns: int, side: int) -> int:
    top, bottom, left, right = unpadded(width, height, rows, columns, side)
    return (bottom - top) * (right - left + 1)


def _padded(width: int, height: int, size: tuple[int, int]) -> Canvas:
    """The picture in its own aspect in the middle of a canvas."""
    across, down = size[0] / width, size[1] / height
    if across < down:
        fitted = (size[0], min(math.ceil(height * across), size[1]))
    else:
        fitted = (min(math.ceil(width * down), size[0]), size[1])
    return Canvas(*fitted, (size[0] - fitted[0]) // 2, (size[1] - fitted[1]) // 2, size)


# ---- rows and columns ----------------------------------------------------------------------------------------


def _row_column(width: int, height: int, geometry: Geometry, budget: int | None) -> PictureLayout:
    """Idefics3: resized to the longest side, then to whole tiles, cut; the last view is the same resized once more.

    A smaller budget is met with a shorter longest side.
    """
    side, size, count = geometry.side, geometry.size, geometry.side**2
    for longest in (geometry.longest, *range((geometry.longest - 1) // size * size, 0, -size)):
        first, rows, columns = row_column(width, height, longest, size)
        if budget is None or row_column_tokens(rows, columns, count) <= budget:
            break
    else:  # a side of an odd number of pixels may still make two tiles
        rows = columns = 0
    tiled = (max(1, columns) * size, max(1, rows) * size)
    canvases = [Canvas(*first, 0, 0, first), Canvas(*tiled, 0, 0, tiled, source=0)]
    views = [View(1, c * size, r * size, side, side) for r in range(rows) for c in range(columns)]
    if views:
        canvases.append(Canvas(size, size, 0, 0, (size, size), source=1))
    views.append(View(len(canvases) - 1, 0, 0, side, side))
    tokens, outputs = row_column_tokens(rows, columns, count), len(views) * count
    patches = outputs * geometry.merge**2
    return PictureLayout(
        tuple(canvases), tuple(views), tokens, outputs, patches, tiles=(rows, columns), filter=geometry.filter
    )


# ---- slots ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def slot_order(picture: PictureLayout, newlines: bool) -> "NDArray[np.int64] | None":
    """[tokens] which encoder output fills each of the picture's positions, NEWLINE where none does.

    None: every output fills one, in order. `newlines`: the policy has them (anyres). Below NEWLINE: a text mark
    (row_column.MARKS).
    """
    if picture.tiles is not None:
        return _frozen(mark_order(*picture.tiles, picture.views[0].rows * picture.views[0].columns))
    if not newlines:
        return None
    import numpy as np

    base = picture.views[0].rows * picture.views[0].columns
    if picture.unpadded is None:
        return _frozen(np.append(np.arange(base), NEWLINE))
    rows, columns = picture.views[0].rows, picture.views[0].columns
    width, height = picture.canvases[1].size
    pixels = picture.canvases[0].width
    down, across = height // pixels, width // pixels
    joint = base + np.arange(down * across * base).reshape(down, across, rows, columns).transpose(0, 2, 1, 3)
    top, bottom, left, right = picture.unpadded
    kept = joint.reshape(down * rows, across * columns)[top:bottom, left:right]
    lines = np.concatenate([kept, np.full((len(kept), 1), NEWLINE)], 1)
    return _frozen(np.concatenate([np.arange(base), lines.reshape(-1)]))


def _frozen(order: "NDArray[np.int64]") -> "NDArray[np.int64]":
    order.flags.writeable = False  # cached: shared by all pictures of this shape
    return order
