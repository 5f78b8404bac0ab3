"""Qwen-VL (arXiv 2308.12966) for reference: ViT-bigG, a one-layer resampler with 2-D positions, and Qwen-7B.

Dynamic NTK and log-n attention act beyond `seq_length` only and are left out: longer samples are an error here.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.families.reference_parts import (
    IMAGE,
    Config,
    RMSNorm,
    attend,
    greedy,
    heads_of,
    logits,
    randomise,
    rotate,
    with_pictures,
)

__all__ = ["IMAGE", "PUBLISHED", "TINY", "build", "greedy", "logits", "make", "sincos"]

PUBLISHED: Config = {
    "architectures": ["QWenLMHeadModel"],
    "attn_dropout_prob": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_qwen.QWenConfig",
        "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
    },
    "bf16": False,
    "emb_dropout_prob": 0.0,
    "fp16": False,
    "fp32": False,
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 22016,
    "kv_channels": 128,
    "layer_norm_epsilon": 1e-06,
    "max_position_embeddings": 8192,
    "model_type": "qwen",
    "no_bias": True,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "onnx_safe": None,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 2048,
    "tie_word_embeddings": False,
    "tokenizer_type": "QWenTokenizer",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_dynamic_ntk": True,
    "use_flash_attn": False,
    "use_logn_attn": True,
    "visual": {
        "heads": 16,
        "image_size": 448,
        "image_start_id": 151857,
        "layers": 48,
        "mlp_ratio": 4.9231,
        "output_dim": 4096,
        "patch_size": 14,
        "width": 1664,
    },
    "vocab_size": 151936,
}

# `n_queries` is an argument of the published vision transformer that config.json leaves at 256.
TINY: Config = PUBLISHED | {
    "hidden_size": 32,
    "intermediate_size": 96,
    "kv_channels": 8,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "seq_length": 512,
    "torch_dtype": "float32",
    "visual": {
        "heads": 3,
        "image_size": 56,
        "image_start_id": 328,
        "layers": 2,
        "mlp_ratio": 1.6667,
        "n_queries": 4,
        "output_dim": 32,
        "patch_size": 14,
        "width": 24,
    },
    "vocab_size": 331,
}
VISUAL_EPS = 1e-6


def on_grid(positions: Tensor, cells: int) -> Tensor:
    """Square positions [n, width] to [cells, width], bicubic and corners not aligned."""
    if len(positions) == cells:
        return positions
    side, wanted = round(len(positions) ** 0.5), round(cells**0.5)
    square = positions.T.unflatten(1, (side, side))[None]
    return F.interpolate(square, size=(wanted, wanted), mode="bicubic", align_corners=False)[0].flatten(1).T


def sincos(width: int, side: int) -> Tensor:
    """MAE's 2-D sine-cosine table [side * side, width], row by row: half of the channels for the column, then the row."""
    quarter = width // 4
    frequencies = 10000.0 ** -(torch.arange(quarter) / quarter)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (column, row)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], -1)


class VisualBlock(nn.Module):
    """A block of ViT before norms; in_proj holds query, key and value of the first head, then those of the second."""

    def __init__(self, width: int, heads: int, wide: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps=VISUAL_EPS), nn.LayerNorm(width, eps=VISUAL_EPS)
        self.attn = nn.ModuleDict({"in_proj": nn.Linear(width, 3 * width), "out_proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, wide), "c_proj": nn.Linear(wide, width)})

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = heads_of(self.attn["in_proj"](self.ln_1(x)), self.heads).chunk(3, -1)
        x = x + self.attn["out_proj"](attend(query, key, value, causal=False))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class Resampler(nn.Module):
    """One cross attention of learned queries over the patches, both with positions, the values without."""

    def __init__(self, queries: int, width: int, heads: int, seen: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(queries, width))
        self.query = nn.Parameter(torch.empty(queries, width))
        self.kv_proj = nn.Linear(seen, width, bias=False) if seen != width else nn.Identity()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_q, self.ln_kv = nn.LayerNorm(width, eps=VISUAL_EPS), nn.LayerNorm(width, eps=VISUAL_EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.ln_kv(self.kv_proj(x))
        query, key = self.ln_q(self.query) + self.pos_embed, x + on_grid(self.pos_embed, len(x))
        return self.attn(query, key, x, need_weights=False)[0]


class Visual(nn.Module):
    def __init__(self, config: Config, head: int) -> None:
        super().__init__()
        width, patch, output = config["width"], config["patch_size"], config["output_dim"]
        queries, wide = config.get("n_queries", 256), int(width * config["mlp_ratio"])
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.positional_embedding = nn.Parameter(torch.empty(queries, width))
        self.ln_pre = nn.LayerNorm(width, eps=VISUAL_EPS)
        blocks = nn.ModuleList(VisualBlock(width, config["heads"], wide) for _ in range(config["layers"]))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.attn_pool = Resampler(queries, output, output // head, width)
        self.ln_post = nn.LayerNorm(output, eps=VISUAL_EPS)
        self.proj = nn.Parameter(torch.empty(output, output))

    def forward(self, picture: Tensor) -> Tensor:
        patches = self.conv1(picture[None])[0].flatten(1).T
        x = self.ln_pre(patches + on_grid(self.positional_embedding, len(patches)))
        for block in self.transformer["resblocks"]:
            x = block(x)
        return self.ln_post(self.attn_pool(x)) @ self.proj


class QwenBlock(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, wide, eps = config["hidden_size"], config["intermediate_size"] // 2, config["layer_norm_epsilon"]
        inner, bias = config["kv_channels"] * config["num_attention_heads"], not config["no_bias"]
        self.heads, self.base = config["num_attention_heads"], config["rotary_emb_base"]
        self.ln_1, self.ln_2 = RMSNorm(width, eps), RMSNorm(width, eps)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(width, 3 * inner), "c_proj": nn.Linear(inner, width, bias=bias)})
        self.mlp = nn.ModuleDict(
            {
                "w1": nn.Linear(width, wide, bias=bias),
                "w2": nn.Linear(width, wide, bias=bias),
                "c_proj": nn.Linear(wide, width, bias=bias),
            }
        )

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        query, key, value = (heads_of(part, self.heads) for part in self.attn["c_attn"](self.ln_1(x)).chunk(3, -1))
        query, key = rotate(query, positions, self.base), rotate(key, positions, self.base)
        x = x + self.attn["c_proj"](attend(query, key, value, causal=True))
        inner = self.ln_2(x)
        return x + self.mlp["c_proj"](self.mlp["w1"](inner) * F.silu(self.mlp["w2"](inner)))


class QwenVL(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, self.longest = config["hidden_size"], config["seq_length"]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config["vocab_size"], width),
                "h": nn.ModuleList(QwenBlock(config) for _ in range(config["num_hidden_layers"])),
                "ln_f": RMSNorm(width, config["layer_norm_epsilon"]),
                # The published resampler has heads of 128 channels, as the decoder has.
                "visual": Visual(config["visual"], config["kv_channels"]),
            }
        )
        self.lm_head = nn.Linear(width, config["vocab_size"], bias=False)

    def forward(self, ids: Tensor, visual: Tensor, pictures: list[Tensor]) -> Tensor:
        if len(ids) > self.longest:
            raise ValueError(f"{len(ids)} tokens are more than seq_length, {self.longest}")
        features = [self.transformer["visual"](picture) for picture in pictures]
        hidden = with_pictures(self.transformer["wte"](ids), visual, features)
        for block in self.transformer["h"]:
            hidden = block(hidden, torch.arange(len(ids)))
        return self.lm_head(self.transformer["ln_f"](hidden))


def make(config: Config) -> nn.Module:
    """The model with whatever values torch gave it: for names and shapes."""
    return QwenVL(config)


def build(config: Config, seed: int, published_positions: bool = False) -> nn.Module:
    """The model with every tensor random.

    The resampler's `pos_embed` too, which strays from the sine-cosine table, so that reading the stored tensor and
    computing it anew differ; `published_positions` keeps the table.
    """
    model = make(config)
    randomise(model, seed)
    stored = model.transformer["visual"].attn_pool.pos_embed
    table = sincos(stored.shape[1], round(len(stored) ** 0.5))
    stored.data = table if published_positions else table + stored.data
    return model
