"""What the reference models share: attention, rotary positions, CLIP's tower, Llama's layers and LLaVA around them.

Plain torch in fp32 for one unpacked sample; no tensor has a batch dimension. Written from the papers and from how the
published code behaves, and from nothing of looksay: only then does agreement between the two say anything.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE = 330
Config = dict[str, Any]


class RMSNorm(nn.Module):
    """Root mean square layer normalisation (arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))


def heads_of(x: Tensor, heads: int) -> Tensor:
    """[len, heads * head] to [heads, len, head]; neighbouring channels belong to one head."""
    return x.unflatten(-1, (heads, -1)).transpose(0, 1)


def attend(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Softmax attention of [heads, len, head] to [len, heads * head]."""
    scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
    if causal:
        later = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)


def rotate(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Rotary positions (arXiv 2104.09864) on [heads, len, head]: channel i turns with channel i + head / 2."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * base ** -(torch.arange(half) / half)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1)


def with_pictures(embedded: Tensor, visual: Tensor, features: list[Tensor]) -> Tensor:
    """The embedded tokens [len, width] with the visual ones replaced, in order, by the pictures' features."""
    if int(visual.sum()) != sum(map(len, features)):
        raise ValueError(f"{int(visual.sum())} image tokens for features of lengths {list(map(len, features))}")
    if not features:
        return embedded
    return embedded.masked_scatter(visual[:, None], torch.cat(features))


def randomise(model: nn.Module, seed: int) -> None:
    """Every parameter random; what scales a norm stays near one."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            near = 1.0 if isinstance(module, nn.LayerNorm | RMSNorm) and name == "weight" else 0.0
            parameter.data = near + 0.2 * torch.randn(parameter.shape, generator=generator)


def logits(model: nn.Module, ids: list[int], pictures: list[Tensor]) -> Tensor:
    """Logits [len, vocab] of one sample; `ids` holds IMAGE once per visual token, `pictures` are normalised [3, H, W]."""
    tokens = torch.tensor(ids)
    return model(tokens, tokens == IMAGE, pictures)


@torch.no_grad()
def greedy(model: nn.Module, ids: list[int], pictures: list[Tensor], n: int) -> list[int]:
    """The n likeliest next tokens, each from the whole sequence anew; a generated IMAGE is an ordinary token."""
    tokens = torch.tensor(ids)
    visual = tokens == IMAGE
    for _ in range(n):
        following = model(tokens, visual, pictures)[-1].argmax().view(1)
        tokens, visual = torch.cat([tokens, following]), torch.cat([visual, torch.tensor([False])])
    return tokens[len(ids) :].tolist()


class ClipAttention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, self.heads = config["hidden_size"], config["num_attention_heads"]
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (heads_of(part(x), self.heads) for part in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(attend(query, key, value, causal=False))


class ClipLayer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, wide = config["hidden_size"], config["intermediate_size"]
        self.quick = {"quick_gelu": True, "gelu": False}[config["hidden_act"]]
        self.self_attn = ClipAttention(config)
        self.layer_norm1 = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, wide), "fc2": nn.Linear(wide, width)})
        self.layer_norm2 = nn.LayerNorm(width, eps=config["layer_norm_eps"])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        inner = self.mlp["fc1"](self.layer_norm2(x))
        inner = inner * torch.sigmoid(1.702 * inner) if self.quick else F.gelu(inner)
        return x + self.mlp["fc2"](inner)


class ClipEmbeddings(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding((config["image_size"] // patch) ** 2 + 1, width)

    def forward(self, picture: Tensor) -> Tensor:
        patches = self.patch_embedding(picture[None])[0].flatten(1).T
        return torch.cat([self.class_embedding[None], patches]) + self.position_embedding.weight


class ClipVision(nn.Module):
    """The vision half of CLIP (arXiv 2103.00020) as transformers names it, `pre_layrnorm` with its missing e included."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embeddings = ClipEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])
        layers = nn.ModuleList(ClipLayer(config) for _ in range(config["num_hidden_layers"]))
        self.encoder = nn.ModuleDict({"layers": layers})
        self.post_layernorm = nn.LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])

    def forward(self, picture: Tensor, select_layer: int) -> Tensor:
        """Patch features [cells, width] out of the hidden states, the embeddings being the first; no class token."""
        states = [self.pre_layrnorm(self.embeddings(picture))]
        for layer in self.encoder["layers"]:
            states.append(layer(states[-1]))
        return states[select_layer][1:]


class LlamaAttention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, self.heads = config["hidden_size"], config["num_attention_heads"]
        self.key_heads, self.base = config.get("num_key_value_heads", self.heads), config.get("rope_theta", 10000.0)
        narrow = width // self.heads * self.key_heads
        self.q_proj, self.k_proj = nn.Linear(width, width, bias=False), nn.Linear(width, narrow, bias=False)
        self.v_proj, self.o_proj = nn.Linear(width, narrow, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        query = rotate(heads_of(self.q_proj(x), self.heads), positions, self.base)
        key = rotate(heads_of(self.k_proj(x), self.key_heads), positions, self.base)
        value = heads_of(self.v_proj(x), self.key_heads)
        key, value = (part.repeat_interleave(self.heads // self.key_heads, 0) for part in (key, value))
        return self.o_proj(attend(query, key, value, causal=True))


class LlamaMLP(nn.Module):
    def __init__(self, width: int, wide: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(width, wide, bias=False), nn.Linear(width, wide, bias=False)
        self.down_proj = nn.Linear(wide, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaLayer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.self_attn, self.mlp = LlamaAttention(config), LlamaMLP(width, config["intermediate_size"])
        self.input_layernorm = RMSNorm(width, config["rms_norm_eps"])
        self.post_attention_layernorm = RMSNorm(width, config["rms_norm_eps"])

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), positions)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llava(nn.Module):
    """LlavaLlamaForCausalLM: CLIP's features through a projector into a Llama.

    `config` is config.json, `tower` the one of the folder or repository that its `mm_vision_tower` names.
    """

    def __init__(self, config: Config, tower: Config, projector: nn.Module) -> None:
        super().__init__()
        self.select_layer, width = config["mm_vision_select_layer"], config["hidden_size"]
        nested = nn.ModuleDict({"vision_tower": nn.ModuleDict({"vision_model": ClipVision(tower)})})
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(config["vocab_size"], width),
                "vision_tower": nested,
                "mm_projector": projector,
                "layers": nn.ModuleList(LlamaLayer(config) for _ in range(config["num_hidden_layers"])),
                "norm": RMSNorm(width, config["rms_norm_eps"]),
            }
        )
        self.lm_head = nn.Linear(width, config["vocab_size"], bias=False)

    def forward(self, ids: Tensor, visual: Tensor, pictures: list[Tensor]) -> Tensor:
        vision = self.model["vision_tower"]["vision_tower"]["vision_model"]
        features = [self.model["mm_projector"](vision(picture, self.select_layer)) for picture in pictures]
        hidden = with_pictures(self.model["embed_tokens"](ids), visual, features)
        for layer in self.model["layers"]:
            hidden = layer(hidden, torch.arange(len(ids)))
        return self.lm_head(self.model["norm"](hidden))
