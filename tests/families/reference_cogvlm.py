"""CogVLM-17B (arXiv 2311.03079) for reference: EVA2-CLIP-E, a gated adapter and a Vicuna with a visual expert per layer.

A picture is `boi`, its patches and `eoi`: cells + 2 image tokens. All patches of a picture share one rotary position.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.families.reference_parts import (
    IMAGE,
    Config,
    LlamaMLP,
    RMSNorm,
    attend,
    greedy,
    heads_of,
    logits,
    randomise,
    rotate,
    with_pictures,
)

__all__ = ["IMAGE", "PUBLISHED", "TINY", "build", "expert_of", "greedy", "logits", "make", "positions_of"]

PUBLISHED: Config = {
    "architectures": ["CogVLMForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_cogvlm.CogVLMConfig",
        "AutoModelForCausalLM": "modeling_cogvlm.CogVLMForCausalLM",
    },
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-05,
    "template_version": "chat",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vision_config": {
        "dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_size": 1792,
        "image_size": 490,
        "in_channels": 3,
        "intermediate_size": 15360,
        "layer_norm_eps": 1e-06,
        "num_heads": 16,
        "num_hidden_layers": 63,
        "num_positions": 1226,
        "patch_size": 14,
    },
    "vocab_size": 32000,
}

TINY: Config = PUBLISHED | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "torch_dtype": "float32",
    "vision_config": PUBLISHED["vision_config"]
    | {
        "hidden_size": 24,
        "image_size": 42,
        "intermediate_size": 40,
        "num_heads": 3,
        "num_hidden_layers": 2,
        "num_positions": 10,
    },
    "vocab_size": 331,
}
ROTARY_BASE = 10000.0


class PatchEmbedding(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        self.proj = nn.Conv2d(config["in_channels"], width, patch, stride=patch)
        self.cls_embedding = nn.Parameter(torch.empty(1, width))
        self.position_embedding = nn.Embedding(config["num_positions"], width)

    def forward(self, picture: Tensor) -> Tensor:
        patches = self.proj(picture[None])[0].flatten(1).T
        return torch.cat([self.cls_embedding, patches]) + self.position_embedding.weight


class VisionLayer(nn.Module):
    """The norms stand behind attention and MLP, inside the residual: x + norm(f(x)). Their names say otherwise."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, wide, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.heads = config["num_heads"]
        self.input_layernorm = nn.LayerNorm(width, eps=eps)
        self.attention = nn.ModuleDict(
            {"query_key_value": nn.Linear(width, 3 * width), "dense": nn.Linear(width, width)}
        )
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, wide), "fc2": nn.Linear(wide, width)})
        self.post_attention_layernorm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (heads_of(part, self.heads) for part in self.attention["query_key_value"](x).chunk(3, -1))
        x = x + self.input_layernorm(self.attention["dense"](attend(query, key, value, causal=False)))
        return x + self.post_attention_layernorm(self.mlp["fc2"](F.gelu(self.mlp["fc1"](x))))


class Adapter(nn.Module):
    """The gated linear unit between the tower and the decoder."""

    def __init__(self, seen: int, width: int, wide: int) -> None:
        super().__init__()
        self.linear_proj = nn.Linear(seen, width, bias=False)
        self.norm1 = nn.LayerNorm(width)
        self.dense_h_to_4h = nn.Linear(width, wide, bias=False)
        self.gate_proj = nn.Linear(width, wide, bias=False)
        self.dense_4h_to_h = nn.Linear(wide, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(self.linear_proj(x)))
        return self.dense_4h_to_h(F.silu(self.gate_proj(x)) * self.dense_h_to_4h(x))


class Vision(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        seen, width = config["vision_config"], config["hidden_size"]
        self.patch_embedding = PatchEmbedding(seen)
        layers = nn.ModuleList(VisionLayer(seen) for _ in range(seen["num_hidden_layers"]))
        self.transformer = nn.ModuleDict({"layers": layers})
        self.linear_proj = Adapter(seen["hidden_size"], width, config["intermediate_size"])
        self.boi, self.eoi = nn.Parameter(torch.empty(1, 1, width)), nn.Parameter(torch.empty(1, 1, width))

    def forward(self, picture: Tensor) -> Tensor:
        x = self.patch_embedding(picture)
        for layer in self.transformer["layers"]:
            x = layer(x)
        return torch.cat([self.boi[0], self.linear_proj(x[1:]), self.eoi[0]])


def expert_of(visual: Tensor) -> Tensor:
    """Which tokens [len] the visual expert takes: those of a picture that another one follows, so not `eoi`."""
    following = torch.cat([visual[1:], torch.tensor([False])])
    return visual & following


def positions_of(visual: Tensor) -> Tensor:
    """Rotary positions [len]: `boi` and `eoi` count like text, all patches between them take one position together."""
    outside = torch.tensor([False])
    patch = visual & torch.cat([outside, visual[:-1]]) & torch.cat([visual[1:], outside])
    steps = ~(patch & torch.cat([outside, patch[:-1]]))
    return steps.cumsum(0) - steps[0].long()


class ExpertAttention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, self.heads = config["hidden_size"], config["num_attention_heads"]
        self.vision_expert_query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.vision_expert_dense = nn.Linear(width, width, bias=False)
        self.language_expert_query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.language_expert_dense = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, expert: Tensor, positions: Tensor) -> Tensor:
        mixed = torch.where(expert, self.vision_expert_query_key_value(x), self.language_expert_query_key_value(x))
        query, key, value = (heads_of(part, self.heads) for part in mixed.chunk(3, -1))
        query, key = rotate(query, positions, ROTARY_BASE), rotate(key, positions, ROTARY_BASE)
        context = attend(query, key, value, causal=True)
        return torch.where(expert, self.vision_expert_dense(context), self.language_expert_dense(context))


class DecoderLayer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, wide, eps = config["hidden_size"], config["intermediate_size"], config["rms_norm_eps"]
        self.self_attn = ExpertAttention(config)
        self.mlp = nn.ModuleDict({"language_mlp": LlamaMLP(width, wide), "vision_mlp": LlamaMLP(width, wide)})
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(width, eps), RMSNorm(width, eps)

    def forward(self, x: Tensor, expert: Tensor, positions: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), expert, positions)
        inner = self.post_attention_layernorm(x)
        return x + torch.where(expert, self.mlp["vision_mlp"](inner), self.mlp["language_mlp"](inner))


class CogVLM(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(config["vocab_size"], width),
                "layers": nn.ModuleList(DecoderLayer(config) for _ in range(config["num_hidden_layers"])),
                "norm": RMSNorm(width, config["rms_norm_eps"]),
                "vision": Vision(config),
            }
        )
        self.lm_head = nn.Linear(width, config["vocab_size"], bias=False)

    def forward(self, ids: Tensor, visual: Tensor, pictures: list[Tensor]) -> Tensor:
        features = [self.model["vision"](picture) for picture in pictures]
        hidden = with_pictures(self.model["embed_tokens"](ids), visual, features)
        expert, positions = expert_of(visual)[:, None], positions_of(visual)
        for layer in self.model["layers"]:
            hidden = layer(hidden, expert, positions)
        return self.lm_head(self.model["norm"](hidden))


def make(config: Config) -> nn.Module:
    """The model with whatever values torch gave it: for names and shapes."""
    return CogVLM(config)


def build(config: Config, seed: int) -> nn.Module:
    """The model with every tensor random."""
    model = make(config)
    randomise(model, seed)
    return model
