"""What the model is made of: encoder x resolution x projector x decoder (docs/design, "a composition")."""

from pydantic import Field, model_validator

from configs.base import Config
from configs.decoder import DecoderConfig
from configs.encoders import Cnn, Encoder, ViT
from configs.projectors import GluProjector, Merging, MlpProjector, Projector, Querying
from configs.resolutions import (
    AnyresResolution,
    NativeResolution,
    Resolution,
    RowColumnResolution,
    SquareResolution,
    TilesResolution,
)


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
        if not isinstance(resolution, TilesResolution | AnyresResolution | RowColumnResolution):
            return self
        rest = resolution.size % cell
        # Row_column tiles are cut as published, each with a rest that is not seen (SmolVLM: 384 in cells of 42).
        loose = isinstance(resolution, RowColumnResolution) and 2 * rest < cell <= resolution.size
        if rest and not loose:
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
        if isinstance(self.projector, Querying | GluProjector) and isinstance(self.encoder, Cnn):
            raise ValueError(f"projector {self.projector.type} takes the views of a vision transformer")
        return self

    @model_validator(mode="after")
    def _places(self) -> "ModelConfig":
        """Positions that count rows and columns need to know where a view's cells stand."""
        positions, resolution = self.decoder.positions, self.resolution
        if positions in ("mrope", "shared") and isinstance(resolution, AnyresResolution | RowColumnResolution):
            raise ValueError(
                f"decoder.positions {positions} does not go with resolution {resolution.type}, which has other tokens "
                "inside a picture: set resolution to native, square or tiles"
            )
        return self

    @model_validator(mode="after")
    def _pooled(self) -> "ModelConfig":
        """One token of a whole view has no neighbours, no rows and no columns."""
        if not self.pooled:
            return self
        against = {
            f"projector {self.projector.type}, which joins neighbouring cells: set projector to linear or mlp": isinstance(
                self.projector, Merging
            ),
            f"resolution {self.resolution.type}, which puts tokens between rows: set resolution to native, square or tiles": (
                isinstance(self.resolution, AnyresResolution | RowColumnResolution)
            ),
            f"decoder.positions {self.decoder.positions}, which counts rows and columns: set it to rope or learned": (
                self.decoder.positions in ("mrope", "shared")
            ),
            "decoder.expert, which serves all tokens of a picture but its last: set it to false": self.decoder.expert,
        }
        wrong = next((sentence for sentence, found in against.items() if found), None)
        if wrong is not None:
            raise ValueError(f"encoder.pool mean makes one token of a view and does not go with {wrong}")
        return self

    @property
    def pooled(self) -> bool:
        """A view becomes one token inside the encoder."""
        return isinstance(self.encoder, Cnn) and self.encoder.pool != "none"

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
