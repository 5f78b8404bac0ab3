"""Perceiver resampler (Flamingo, arXiv 2204.14198) in Idefics2's form (arXiv 2405.02246).

Legend: V views, Q latents, N features of a view, C their width, W the decoder's width.
"""

import torch
from torch import Tensor, nn

from configs.projectors import PerceiverProjector
from pretrain.model.activations import ACTIVATIONS
from pretrain.model.attention import attend_views
from pretrain.model.learned import Learned
from pretrain.model.linear import Builder, WholeLinear
from pretrain.model.norm import Norm

WIDER = 4


class Gated(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, build: Builder, name: str, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.gate = WholeLinear(build, f"{name}.gate", inputs, hidden)
        self.up = WholeLinear(build, f"{name}.up", inputs, hidden)
        self.down = WholeLinear(build, f"{name}.down", hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(ACTIVATIONS["silu"](self.gate(x)) * self.up(x))


class Layer(nn.Module):
    """Latents attend to the view's features and to themselves, then an MLP."""

    def __init__(self, build: Builder, number: int, config: PerceiverProjector, width: int):
        super().__init__()
        name, wide, kv = (
            f"projector.layers.{number}",
            config.heads * config.head_size,
            config.kv_heads * config.head_size,
        )
        self.head = config.head_size
        self.norm_latents = Norm(build, f"{name}.norm_latents", width, config.norm_eps)
        self.norm_features = Norm(build, f"{name}.norm_features", width, config.norm_eps)
        self.q = WholeLinear(build, f"{name}.q", width, wide)
        self.k = WholeLinear(build, f"{name}.k", width, kv)
        self.v = WholeLinear(build, f"{name}.v", width, kv)
        self.out = WholeLinear(build, f"{name}.out", wide, width)
        self.norm = Norm(build, f"{name}.norm", width, config.norm_eps)
        self.mlp = Gated(build, f"{name}.mlp", width, WIDER * width, width)

    def forward(self, latents: Tensor, features: Tensor) -> Tensor:
        own = self.norm_latents(latents)
        both = torch.cat([self.norm_features(features), own], 1)
        q = self.q(own).view(*own.shape[:2], -1, self.head)
        k, v = (part(both).view(*both.shape[:2], -1, self.head) for part in (self.k, self.v))
        latents = latents + self.out(attend_views(q, k, v).flatten(2))
        return latents + self.mlp(self.norm(latents))


class Perceiver(nn.Module):
    """[V * N, C] -> [V * Q, W]."""

    def __init__(self, build: Builder, config: PerceiverProjector, channels: int, width: int):
        super().__init__()
        self.inward = Gated(build, "projector.inward", channels, config.hidden or WIDER * width, width)
        self.latents = Learned(build, "projector.latents", config.queries, width, build.std)
        self.layers = nn.ModuleList(Layer(build, i, config, width) for i in range(config.layers))
        self.norm = Norm(build, "projector.norm", width, config.norm_eps)

    def forward(self, x: Tensor, views: int) -> Tensor:
        features = self.inward(x)
        features = features.view(views, -1, features.shape[-1])
        latents = self.latents().to(x.dtype).expand(views, -1, -1)
        for layer in self.layers:
            latents = layer(latents, features)
        return self.norm(latents).reshape(-1, features.shape[-1])
