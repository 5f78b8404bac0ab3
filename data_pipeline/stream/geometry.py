"""How a picture becomes visual tokens, as plain numbers out of a model's encoder, resolution and projector."""

from dataclasses import dataclass, fields, replace
from typing import Literal

from configs.model import ModelConfig
from configs.resolutions import AnyresResolution, Filter, RowColumnResolution, SquareResolution, TilesResolution

NAMED = (
    "patch",
    "merge",
    "mode",
    "min_tokens",
    "max_tokens",
    "size",
    "rounding",
    "min_tiles",
    "max_tiles",
    "thumbnail",
    "tile_grids",
)
"""Fields that a geometry's name always has; others only where they are not as they were before there were such."""


@dataclass(frozen=True, repr=False)
class Geometry:
    """A resolution policy for one encoder and projector. Which fields matter depends on `mode`.

    native   one view of the picture's own shape, between min_tokens and max_tokens
    square   one view of size x size pixels
    tiles    a grid of size x size tiles, then a thumbnail (InternVL)
    anyres   a base view, then a grid of tiles without their padding, a newline token after each row (LLaVA-NeXT)
    row_column  rows and columns of tiles with text tokens between them, then the whole picture (Idefics3)
    """

    patch: int
    merge: int
    """Patches along one side of a visual token."""
    mode: Literal["native", "square", "tiles", "anyres", "row_column"]
    min_tokens: int = 1
    max_tokens: int = 1024
    size: int = 0
    """Pixels along a side of a square view: the whole picture, a tile, a thumbnail, a base view."""
    rounding: Literal["cells", "smart_resize"] = "cells"
    min_tiles: int = 1
    max_tiles: int = 1
    thumbnail: bool = False
    tile_grids: tuple[tuple[int, int], ...] = ()
    """(rows, columns) of tiles that anyres chooses from; the first of equally good ones is taken."""
    queries: int = 0
    """Tokens of a view where their number is fixed, whatever its cells (Q-Former, resampler)."""
    extra: int = 0
    """Tokens of a view besides its cells (a class token that is kept; CogVLM's two ends)."""
    pooled: bool = False
    """The encoder makes one token of each view, the mean of its cells."""
    positions: Literal["plain", "mrope", "shared"] = "plain"
    """How positions go on behind a picture: see positions.py."""
    first_position: int = 0
    prefix: bool = False
    """What comes before a sample's first learned token sees itself both ways (prefix-LM)."""
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    """How a square view gets its shape."""
    fill: tuple[int, int, int] = (0, 0, 0)
    """Colour of the bars that `pad` adds."""
    filter: Filter = "bicubic"
    longest: int = 0
    """Pixels of the longest side before a row_column picture is cut."""

    def __repr__(self) -> str:
        """Names plans and cached features: those of a geometry that uses nothing new keep theirs."""
        shown = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}
        return f"Geometry({', '.join(f'{k}={v!r}' for k, (v, usual) in shown.items() if k in NAMED or v != usual)})"

    @property
    def cell(self) -> int:
        """Pixels along one side of a visual token."""
        return self.patch * self.merge

    @property
    def side(self) -> int:
        """Visual tokens along a side of a square view."""
        return max(1, round(self.size / self.cell))

    def view_outputs(self, cells: int) -> int:
        """What the encoder makes of a view of so many (merged) cells."""
        return 1 if self.pooled else cells

    def view_tokens(self, cells: int) -> int:
        """Tokens of a view of so many (merged) cells."""
        return self.queries or self.view_outputs(cells) + self.extra


def geometry_of(model: ModelConfig) -> Geometry:
    """The geometry that a model configuration amounts to."""
    decoder, positions = model.decoder, model.decoder.positions
    return replace(
        _pictures(model),
        queries=model.queries,
        extra=model.extra,
        pooled=model.pooled,
        positions=positions if positions in ("mrope", "shared") else "plain",
        first_position=decoder.first_position,
        prefix=decoder.attention == "prefix",
    )


def _pictures(model: ModelConfig) -> Geometry:
    patch, merge, resolution = model.encoder.patch, model.merge, model.resolution
    if isinstance(resolution, SquareResolution):
        fill = tuple(int(255 * value) for value in getattr(model.encoder, "pixel_mean", (0.5, 0.5, 0.5)))
        return Geometry(
            patch,
            merge,
            "square",
            size=resolution.size,
            fit=resolution.fit,
            fill=(fill[0], fill[1], fill[2]) if resolution.fit == "pad" else (0, 0, 0),
            filter=resolution.filter,
        )
    if isinstance(resolution, TilesResolution):
        return Geometry(
            patch,
            merge,
            "tiles",
            size=resolution.size,
            min_tiles=resolution.min_tiles,
            max_tiles=resolution.max_tiles,
            thumbnail=resolution.thumbnail,
            filter=resolution.filter,
        )
    if isinstance(resolution, AnyresResolution):
        return Geometry(
            patch, merge, "anyres", size=resolution.size, tile_grids=resolution.grids, filter=resolution.filter
        )
    if isinstance(resolution, RowColumnResolution):
        size, longest = resolution.size, resolution.longest
        return Geometry(patch, merge, "row_column", size=size, longest=longest, filter=resolution.filter)
    return Geometry(
        patch,
        merge,
        "native",
        min_tokens=resolution.min_tokens,
        max_tokens=resolution.max_tokens,
        rounding=resolution.rounding,
    )
