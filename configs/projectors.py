"""Projectors: what turns an encoder's features into the decoder's inputs."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.base import Config


class LinearProjector(Config):
    type: Literal["linear"] = "linear"
    bias: bool = True


class MlpProjector(Config):
    """MLP after LLaVA-1.5 (arXiv 2310.03744); `norm` puts a LayerNorm before it, `norm_after` one behind each layer (Yi-VL)."""

    type: Literal["mlp"] = "mlp"
    hidden: int | None = Field(None, description="width between the layers; none: the decoder's width")
    depth: int = Field(2, ge=2, le=3)
    activation: Literal["gelu", "silu"] = "gelu"
    norm: bool = False
    norm_after: bool = False


class PixelShuffleMlpProjector(Config):
    """factor x factor neighbouring cells become one token, then norm and MLP (InternVL, arXiv 2404.16821)."""

    type: Literal["pixel_shuffle_mlp"] = "pixel_shuffle_mlp"
    factor: int = Field(2, ge=2, le=4)
    hidden: int | None = None
    activation: Literal["gelu", "silu"] = "gelu"


class PixelShuffleLinearProjector(Config):
    """factor x factor neighbouring cells become one token by one linear layer (Idefics3, arXiv 2408.12637; SmolVLM)."""

    type: Literal["pixel_shuffle_linear"] = "pixel_shuffle_linear"
    factor: int = Field(2, ge=2, le=4)
    bias: bool = False


class PatchMergerProjector(Config):
    """A norm of each cell, then factor x factor cells through an MLP (Qwen2-VL, arXiv 2409.12191)."""

    type: Literal["patch_merger"] = "patch_merger"
    factor: int = Field(2, ge=2, le=4)
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-6


class GluProjector(Config):
    """Linear, norm, GELU, then a gated MLP (CogVLM, arXiv 2311.03079); `ends`: a learned token before and behind each view."""

    type: Literal["glu"] = "glu"
    hidden: int = Field(..., ge=8, description="width inside the gated MLP")
    ends: bool = False


class QFormerProjector(Config):
    """Learned queries that attend to a view's features (BLIP-2, arXiv 2301.12597), then one linear layer."""

    type: Literal["qformer"] = "qformer"
    queries: int = Field(32, ge=1)
    width: int = Field(768, ge=8)
    layers: int = Field(12, ge=1)
    heads: int = Field(12, ge=1)
    mlp_width: int = Field(3072, ge=8)
    cross_every: int = Field(2, ge=1, description="every so many layers attend to the view, from the first on")
    activation: Literal["gelu"] = "gelu"
    norm_eps: float = 1e-12

    @model_validator(mode="after")
    def _heads(self) -> "QFormerProjector":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class ResamplerProjector(Config):
    """One cross-attention of learned queries, with 2-D sines as positions (Qwen-VL, arXiv 2308.12966)."""

    type: Literal["resampler"] = "resampler"
    queries: int = Field(256, ge=1, description="a square number: each query has a place in the picture")
    heads: int = Field(32, ge=1)
    norm_eps: float = 1e-6

    @model_validator(mode="after")
    def _square(self) -> "ResamplerProjector":
        if round(self.queries**0.5) ** 2 != self.queries:
            raise ValueError(f"queries {self.queries} must be a square number")
        return self


class PerceiverProjector(Config):
    """Layers of learned latents that attend to a view and to themselves (Flamingo, arXiv 2204.14198; Idefics2's form)."""

    type: Literal["perceiver"] = "perceiver"
    queries: int = Field(64, ge=1)
    layers: int = Field(3, ge=1)
    heads: int = Field(16, ge=1)
    kv_heads: int = Field(4, ge=1)
    head_size: int = Field(96, ge=2)
    hidden: int | None = Field(None, ge=8, description="width inside the gated MLP before it; none: 4 decoder widths")
    norm_eps: float = 1e-6


Projector = Annotated[
    LinearProjector
    | MlpProjector
    | PixelShuffleMlpProjector
    | PixelShuffleLinearProjector
    | PatchMergerProjector
    | GluProjector
    | QFormerProjector
    | ResamplerProjector
    | PerceiverProjector,
    Field(discriminator="type"),
]
Merging = PixelShuffleMlpProjector | PixelShuffleLinearProjector | PatchMergerProjector
"""Those that make one token of factor x factor cells."""
Querying = QFormerProjector | ResamplerProjector | PerceiverProjector
"""Those that make a fixed number of tokens of a view, whatever its grid."""
