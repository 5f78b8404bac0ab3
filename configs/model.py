"""What the model is made of: encoder x resolution x projector x decoder (docs/design, "a composition")."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.base import Config
from configs.decoder import DecoderConfig
from configs.encoders import Encoder, ViT
from configs.projectors import GluProjector, Merging, MlpProjector, Projector, Querying


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


class SquareResolution(Config):
    """Every picture resized to size x size pixels."""

    type: Literal["square"] = "square"
    size: int = Field(224, ge=1)


class TilesResolution(Config):
    """Cut into the grid of square tiles nearest in aspect, then a thumbnail of it all (InternVL 1.5, arXiv 2404.16821)."""

    type: Literal["tiles"] = "tiles"
    size: int = Field(448, ge=1, description="pixels along a side of a tile")
    min_tiles: int = Field(1, ge=1)
    max_tiles: int = Field(12, ge=1, le=128, description="most tiles of a picture, its thumbnail not counted")
    thumbnail: bool = Field(True, description="add the whole picture as a last tile where there is more than one")

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

    @model_validator(mode="after")
    def _grids(self) -> "AnyresResolution":
        for rows, columns in self.grids:
            if rows < 1 or columns < 1 or rows * columns > 128:
                raise ValueError(f"grid {rows} x {columns} must have 1 to 128 tiles")
        return self


Resolution = Annotated[
    NativeResolution | SquareResolution | TilesResolution | AnyresResolution, Field(discriminator="type")
]


class ModelConfig(Config):
    """One composition; a family (LLaVA, ...) is a value of this, never a class."""

    encoder: Encoder
    resolution: Resolution = NativeResolution()
    projector: Projector = MlpProjector()
    decoder: DecoderConfig
    init_std: float = Field(0.02, gt=0)

    @model_validator(mode="after")
    def _whole_views(self) -> "ModelConfig":
        """Tiles are cut where cells end: a rest of pixels would be lost at each seam."""
        cell, resolution = self.encoder.patch * self.merge, self.resolution
        if isinstance(resolution, TilesResolution | AnyresResolution) and resolution.size % cell:
            below = resolution.size // cell * cell
            raise ValueError(
                f"resolution.size {resolution.size} must be a multiple of {cell} pixels (the encoder's patch times the "
                f"projector's factor): {f'{below} or ' if below else ''}{below + cell}"
            )
        return self

    @model_validator(mode="after")
    def _equal_views(self) -> "ModelConfig":
        """What works on whole views needs them of one size, and a token beside the cells has no neighbours to merge with."""
        whole = isinstance(self.projector, Querying | GluProjector) or self.encoder_extra
        if whole and not isinstance(self.resolution, SquareResolution | TilesResolution):
            raise ValueError(
                f"resolution {self.resolution.type} has views of many sizes, which projector {self.projector.type} (or a "
                "class token that is kept) cannot take: set resolution to square or tiles"
            )
        if self.encoder_extra and isinstance(self.projector, Merging):
            raise ValueError(
                f"encoder.class_token keep does not go with projector {self.projector.type}: set it to drop"
            )
        if isinstance(self.projector, Querying | GluProjector) and self.encoder.type == "efficientnet_lite0":
            raise ValueError(f"projector {self.projector.type} takes the views of a vision transformer")
        return self

    @property
    def encoder_extra(self) -> int:
        """Features of a view besides its cells."""
        return self.encoder.extra if isinstance(self.encoder, ViT) else 0

    @property
    def merge(self) -> int:
        """Grid cells along one side that become one visual token."""
        return self.projector.factor if isinstance(self.projector, Merging) else 1

    @property
    def queries(self) -> int:
        """Tokens of a view where their number is fixed; 0: one for each (merged) cell."""
        return self.projector.queries if isinstance(self.projector, Querying) else 0

    @property
    def extra(self) -> int:
        """Tokens of a view besides those of its cells."""
        if self.queries:
            return 0
        return self.encoder_extra + (2 if isinstance(self.projector, GluProjector) and self.projector.ends else 0)
