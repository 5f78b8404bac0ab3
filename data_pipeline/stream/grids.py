"""The grid of the one view of a native or square picture. Sizes are width x height in pixels, grids rows x columns of tokens."""

import math

from data_pipeline.stream.geometry import Geometry


def require_pixels(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width} x {height} pixels has no grid")


def grid_of(width: int, height: int, geometry: Geometry, budget: int | None = None) -> tuple[int, int]:
    """(rows, columns) of the one view of a native or square picture.

    >>> grid_of(160, 128, Geometry(patch=32, merge=1, mode="native"))
    (4, 5)
    >>> grid_of(224, 224, Geometry(patch=16, merge=1, mode="square", size=224))
    (14, 14)
    """
    require_pixels(width, height)
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
