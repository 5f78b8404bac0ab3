"""Resolutions: from a picture of any size to the views that an encoder sees."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.base import Config


class NativeResolution(Config):
    """Keep the picture's own size: rounded to whole cells, shrunk or enlarged into [min_tokens, max_tokens]."""

    type: Literal["native"] = "native"
    min_tokens: int = Field(1, ge=1, description="least visual tokens of a picture")
    max_tokens: int = Field(1024, ge=1, description="most visual tokens of a picture")
    rounding: Literal["cells", "smart_resize"] = Field(
        "cells",
        description="`smart_resize`: to the very grids of Qwen2-VL's preprocessing (its min_pixels and max_pixels are "
        "min_tokens and max_tokens cells); they differ by a cell here and there, and for strips thinner than half a cell",
    )

    @model_validator(mode="after")
    def _ordered(self) -> "NativeResolution":
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}")
        return self


Filter = Literal["bicubic", "lanczos", "bilinear"]
"""Kernels of resampling, as Pillow has them, with antialiasing."""


class SquareResolution(Config):
    """Every picture as size x size pixels. A rest of pixels that is no whole cell is not seen (SigLIP: 384 in cells of 14)."""

    type: Literal["square"] = "square"
    size: int = Field(224, ge=1)
    fit: Literal["stretch", "crop", "pad"] = Field(
        "stretch",
        description="`stretch`: without regard to its aspect (BLIP-2, SigLIP); `crop`: the shortest side becomes `size`, "
        "then the middle is cut out (CLIP, LLaVA); `pad`: on a square of the encoder's mean colour (LLaVA-1.5)",
    )
    filter: Filter = "bicubic"


class TilesResolution(Config):
    """Cut into the grid of square tiles nearest in aspect, then a thumbnail of it all (InternVL 1.5, arXiv 2404.16821)."""

    type: Literal["tiles"] = "tiles"
    size: int = Field(448, ge=1, description="pixels along a side of a tile")
    min_tiles: int = Field(1, ge=1)
    max_tiles: int = Field(12, ge=1, le=128, description="most tiles of a picture, its thumbnail not counted")
    thumbnail: bool = Field(True, description="add the whole picture as a last tile where there is more than one")
    filter: Filter = "bicubic"

    @model_validator(mode="after")
    def _ordered(self) -> "TilesResolution":
        if self.min_tiles > self.max_tiles:
            raise ValueError(f"min_tiles {self.min_tiles} is above max_tiles {self.max_tiles}")
        return self


class AnyresResolution(Config):
    """A base view, then the best of some tile grids without its padding, a newline token after each row (LLaVA-NeXT).

    The rules are those of its blog post of January 2024 and of `LlavaNext` in transformers.
    """

    type: Literal["anyres"] = "anyres"
    size: int = Field(336, ge=1, description="pixels along a side of the base view and of each tile")
    grids: tuple[tuple[int, int], ...] = Field(
        ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3)),
        min_length=1,
        description="rows x columns of tiles to choose from (`image_grid_pinpoints` / size)",
    )
    filter: Filter = "bicubic"

    @model_validator(mode="after")
    def _grids(self) -> "AnyresResolution":
        for rows, columns in self.grids:
            if rows < 1 or columns < 1 or rows * columns > 128:
                raise ValueError(f"grid {rows} x {columns} must have 1 to 128 tiles")
        return self


class RowColumnResolution(Config):
    """Enlarged or shrunk to `longest`, cut into rows and columns of tiles, then the whole picture as a last tile (Idefics3,
    SmolVLM). Text tokens name each tile: `<fake_token_around_image><row_1_col_2>`, a line's end after each row.
    """

    type: Literal["row_column"] = "row_column"
    size: int = Field(512, ge=1, description="pixels along a side of a tile (`max_image_size`)")
    longest: int = Field(2048, ge=1, le=4096, description="pixels of the longest side; `size`: no picture is cut")
    filter: Filter = "lanczos"

    @model_validator(mode="after")
    def _tiles(self) -> "RowColumnResolution":
        if not self.size <= self.longest <= 16 * self.size:
            raise ValueError(f"longest {self.longest} must lie between size {self.size} and 16 times that")
        return self


Resolution = Annotated[
    NativeResolution | SquareResolution | TilesResolution | AnyresResolution | RowColumnResolution,
    Field(discriminator="type"),
]
