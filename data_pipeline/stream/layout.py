"""Metadata -> token counts: the one pure function that planner, collator and `estimate` share.

`layout(sizes, text_tokens, label_tokens, geometry)` needs no pixels. The collator must produce exactly these
counts and asserts it. All sizes are width x height in pixels, grids are rows x columns of cells.
"""

import math
from dataclasses import dataclass
from typing import Literal

from configs.model import ModelConfig, SquareResolution


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes visual tokens: plain numbers out of a model's encoder, resolution and projector."""

    patch: int
    merge: int
    mode: Literal["native", "square"]
    min_tokens: int = 1
    max_tokens: int = 1024
    size: int = 0

    @property
    def cell(self) -> int:
        """Pixels along one side of a visual token."""
        return self.patch * self.merge


@dataclass(frozen=True)
class Layout:
    """Counts of one sample. `tokens` is what it fills in a row; `grids` is (rows, columns) of tokens per picture."""

    text_tokens: int
    visual_tokens: int
    patches: int
    label_tokens: int
    grids: tuple[tuple[int, int], ...]

    @property
    def tokens(self) -> int:
        return self.text_tokens + self.visual_tokens


def geometry_of(model: ModelConfig) -> Geometry:
    """The geometry that a model configuration amounts to."""
    resolution = model.resolution
    if isinstance(resolution, SquareResolution):
        return Geometry(model.encoder.patch, model.merge, "square", size=resolution.size)
    return Geometry(
        model.encoder.patch, model.merge, "native", min_tokens=resolution.min_tokens, max_tokens=resolution.max_tokens
    )


def grid_of(width: int, height: int, geometry: Geometry) -> tuple[int, int]:
    """(rows, columns) of visual tokens of one picture.

    >>> grid_of(160, 128, Geometry(patch=32, merge=1, mode="native"))
    (4, 5)
    >>> grid_of(224, 224, Geometry(patch=16, merge=1, mode="square", size=224))
    (14, 14)
    """
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width} x {height} pixels has no grid")
    cell = geometry.cell
    if geometry.mode == "square":
        side = max(1, round(geometry.size / cell))
        return side, side
    rows, columns = max(1, round(height / cell)), max(1, round(width / cell))
    if rows * columns > geometry.max_tokens:
        scale = math.sqrt(width * height / (geometry.max_tokens * cell * cell))
        rows = max(1, math.floor(height / cell / scale))
        columns = max(1, math.floor(width / cell / scale))
        # A strip thinner than a cell keeps one row; its length alone must then obey the limit.
        rows, columns = min(rows, geometry.max_tokens), min(columns, max(1, geometry.max_tokens // rows))
    elif rows * columns < geometry.min_tokens:
        scale = math.sqrt(geometry.min_tokens * cell * cell / (width * height))
        rows, columns = math.ceil(height / cell * scale), math.ceil(width / cell * scale)
        if rows * columns > geometry.max_tokens:
            rows, columns = max(1, min(rows, geometry.max_tokens)), max(1, geometry.max_tokens // rows)
    return rows, columns


def layout(sizes: tuple[tuple[int, int], ...], text_tokens: int, label_tokens: int, geometry: Geometry) -> Layout:
    """Counts of a sample with pictures of `sizes` (width, height) and `text_tokens` tokens around them.

    `text_tokens` counts everything but the visual tokens themselves (the mark that they replace is not counted).
    The course's example, 196 visual and 4 text positions:

    >>> layout(((224, 224),), 4, 0, Geometry(patch=16, merge=1, mode="square", size=224)).tokens
    200
    """
    grids = tuple(grid_of(width, height, geometry) for width, height in sizes)
    visual = sum(rows * columns for rows, columns in grids)
    return Layout(text_tokens, visual, visual * geometry.merge**2, label_tokens, grids)
