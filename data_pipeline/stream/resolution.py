"""One picture's size -> its views, grids and visual tokens, under any resolution policy. Pure; no pixels.

`picture_layout` is what the collator builds from; `measure` (measure.py) gives its counts for millions of pictures.
Sizes are width x height in pixels, grids are rows x columns of visual tokens. Where a published preprocessor decides by
comparing floats, the same operations are done here in the same order, so that the counts are exactly its own.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from data_pipeline.stream.geometry import Geometry

if TYPE_CHECKING:  # layouts alone are asked for on login nodes, which need no numpy
    import numpy as np
    from numpy.typing import NDArray

NEWLINE = -1
"""In a slot order: the learned newline token, which no encoder output fills."""


class Canvas(NamedTuple):
    """The picture resized to width x height and laid on black at (left, top); `size` is (width, height) of it all."""

    width: int
    height: int
    left: int
    top: int
    size: tuple[int, int]


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
    """(Merged) cells of its views; more than are used where padding is dropped."""
    patches: int
    unpadded: tuple[int, int, int, int] | None = None
    """Anyres: (first row, end, first column, end) of the tiles' joint grid of tokens that are kept."""

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
    _require_pixels(width, height)
    if budget is not None and budget < least_tokens(geometry):
        raise ValueError(f"{budget} tokens are below the least of a picture ({least_tokens(geometry)})")
    if geometry.mode == "tiles":
        return _tiles(width, height, geometry, budget)
    if geometry.mode == "anyres":
        return _anyres(width, height, geometry, budget)
    rows, columns = grid_of(width, height, geometry, budget)
    count, size = rows * columns, (columns * geometry.cell, rows * geometry.cell)
    tokens, patches = geometry.view_tokens(count), count * geometry.merge**2
    return PictureLayout((Canvas(*size, 0, 0, size),), (View(0, 0, 0, rows, columns),), tokens, count, patches)


def least_tokens(geometry: Geometry) -> int:
    """Tokens that any picture can be brought down to."""
    square = geometry.side**2
    if geometry.mode == "native":
        return geometry.min_tokens
    if geometry.mode == "tiles":
        return tiles_tokens(geometry.min_tiles, geometry)
    return square + 1 if geometry.mode == "anyres" else geometry.view_tokens(square)


def _require_pixels(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width} x {height} pixels has no grid")


# ---- one view ------------------------------------------------------------------------------------------------


def grid_of(width: int, height: int, geometry: Geometry, budget: int | None = None) -> tuple[int, int]:
    """(rows, columns) of the one view of a native or square picture.

    >>> grid_of(160, 128, Geometry(patch=32, merge=1, mode="native"))
    (4, 5)
    >>> grid_of(224, 224, Geometry(patch=16, merge=1, mode="square", size=224))
    (14, 14)
    """
    _require_pixels(width, height)
    if geometry.mode == "square":
        return geometry.side, geometry.side
    least, most = geometry.min_tokens, geometry.max_tokens
    most = most if budget is None else min(most, budget)
    if geometry.rounding == "smart_resize":
        rows, columns = _smart_resize(width, height, geometry.cell, least, most)
    else:
        rows, columns = _whole_cells(width, height, geometry.cell, least, most)
    if not least <= rows * columns <= most:
        # No grid of this shape lies within the limits: the longer side gives way, then the shorter one.
        short = min(rows, columns, most)
        while short * (most // short) < least:
            short -= 1
        rows, columns = (most // short, short) if height > width else (short, most // short)
    return rows, columns


def _whole_cells(width: int, height: int, cell: int, least: int, most: int) -> tuple[int, int]:
    rows, columns = max(1, round(height / cell)), max(1, round(width / cell))
    if rows * columns > most:
        scale = math.sqrt(width * height / (most * cell * cell))
        rows = max(1, math.floor(height / cell / scale))
        columns = max(1, math.floor(width / cell / scale))
        # A strip thinner than a cell keeps one row; its length alone must then obey the limit.
        rows, columns = min(rows, most), min(columns, max(1, most // rows))
    elif rows * columns < least:
        scale = math.sqrt(least * cell * cell / (width * height))
        rows, columns = math.ceil(height / cell * scale), math.ceil(width / cell * scale)
        if rows * columns > most:
            rows, columns = max(1, min(rows, most)), max(1, most // rows)
    return rows, columns


def _smart_resize(width: int, height: int, cell: int, least: int, most: int) -> tuple[int, int]:
    """Qwen2-VL's `smart_resize`, in tokens of cell x cell pixels."""
    rows, columns = round(height / cell), round(width / cell)
    if rows * columns > most:
        scale = math.sqrt((height * width) / (most * cell * cell))
        rows, columns = max(1, math.floor(height / scale / cell)), max(1, math.floor(width / scale / cell))
    elif rows * columns < least:
        scale = math.sqrt(least * cell * cell / (height * width))
        rows, columns = math.ceil(height * scale / cell), math.ceil(width * scale / cell)
    return rows, columns


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
    columns, rows = best
    canvases, views = _tile_views(rows, columns, 0, geometry)
    if geometry.thumbnail and len(views) > 1:
        canvases.append(_square_canvas(geometry))
        views.append(View(1, 0, 0, geometry.side, geometry.side))
    count = len(views) * geometry.side**2
    tokens = len(views) * geometry.view_tokens(geometry.side**2)
    return PictureLayout(tuple(canvases), tuple(views), tokens, count, count * geometry.merge**2)


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
        return PictureLayout((_square_canvas(geometry),), (base,), side**2 + 1, side**2, side**2 * merged)
    (tiled,), views = _tile_views(*best, 1, geometry)
    area = unpadded(width, height, *best, side)
    tokens = side**2 + (area[1] - area[0]) * (area[3] - area[2] + 1)
    outputs = (1 + len(views)) * side**2
    canvases = (_square_canvas(geometry), _padded(width, height, tiled.size))
    return PictureLayout(canvases, (base, *views), tokens, outputs, outputs * merged, area)


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


# ---- slots ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def slot_order(picture: PictureLayout, newlines: bool) -> "NDArray[np.int64] | None":
    """[tokens] which encoder output fills each of the picture's positions, NEWLINE where none does.

    None: every output fills one, in order. `newlines`: the policy has them (anyres).
    """
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
