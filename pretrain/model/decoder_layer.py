"""One decoder layer: attention and MLP, with a second set of weights for the tokens of pictures where asked for.

Legend: T flat positions, W width, H heads of this rank, K key/value heads of this rank, D head size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from configs.decoder import DecoderConfig
from pretrain.model.activations import ACTIVATIONS
from pretrain.model.attention import Segments, attend, attend_cached, rotate
from pretrain.model.cache import KeyValueCache
from pretrain.model.linear import Builder, ColumnLinear, RowLinear, WholeLinear
from pretrain.model.norm import HeadNorm, Norm


@dataclass(frozen=True)
class Routes:
    """Which weights serve which of T flat positions: `expert` [E] those of pictures, `plain` [T - E] the others."""

    expert: Tensor
    plain: Tensor

    @classmethod
    def of(cls, expert: Tensor, total: int) -> "Routes":
        chosen = torch.zeros(total, dtype=torch.bool, device=expert.device)
        chosen[expert] = True
        return cls(expert, (~chosen).nonzero()[:, 0])


class Maker:
    """Makes the linear maps of a layer, under the names of `name`.*"""

    def __init__(self, build: Builder, name: str, config: DecoderConfig):
        self.build, self.name, self.config = build, name, config
        # GPT-2's scaling of what writes into the residual stream.
        self.std = build.std / (2 * config.layers) ** 0.5 if config.scaled_residual else build.std

    def query(self) -> nn.Module:
        config = self.config
        return ColumnLinear(
            self.build, f"{self.name}.q", config.width, config.heads * config.head, bias=config.qkv_bias
        )

    def key_value(self, part: str) -> nn.Module:
        """Whole on every rank where TP does not divide the KV heads."""
        config, name = self.config, f"{self.name}.{part}"
        kv_heads = config.kv_heads or config.heads
        if kv_heads % self.build.tp_size:
            wide = kv_heads * config.head
            return WholeLinear(self.build, name, config.width, wide, bias=config.qkv_bias, partial=True)
        return ColumnLinear(self.build, name, config.width, kv_heads * config.head, bias=config.qkv_bias)

    def into_mlp(self, part: str) -> nn.Module:
        config = self.config
        return ColumnLinear(self.build, f"{self.name}.{part}", config.width, config.mlp_width, bias=config.bias)

    def into_stream(self, part: str, inputs: int) -> nn.Module:
        config = self.config
        return RowLinear(self.build, f"{self.name}.{part}", inputs, config.width, std=self.std, bias=config.bias)


class Expert(nn.Module):
    """The weights that serve the tokens of pictures: CogVLM's visual expert (arXiv 2311.03079)."""

    def __init__(self, build: Builder, name: str, config: DecoderConfig):
        super().__init__()
        make = Maker(build, name, config)
        self.q, self.k, self.v = make.query(), make.key_value("k"), make.key_value("v")
        self.out = make.into_stream("out", config.heads * config.head)
        self.gate = make.into_mlp("gate") if config.gated else None
        self.up, self.down = make.into_mlp("up"), make.into_stream("down", config.mlp_width)


class DecoderLayer(nn.Module):
    def __init__(self, build: Builder, number: int, config: DecoderConfig):
        super().__init__()
        name, width = f"decoder.layers.{number}", config.width
        make, kv_heads = Maker(build, name, config), config.kv_heads or config.heads
        self.number, self.head, self.prefix = number, config.head, config.attention == "prefix"
        self.activation = ACTIVATIONS[config.activation]
        self.kv_of_q: list[int] | None = None
        if kv_heads % build.tp_size:  # every rank holds all KV heads and uses those of its query heads
            mine = config.heads // build.tp_size
            first, group = build.tp_rank * mine, config.heads // kv_heads
            self.kv_of_q = [(first + i) // group for i in range(mine)]
        self.norm1 = Norm(build, f"{name}.norm1", width, config.norm_eps, config.norm)
        self.q, self.k, self.v = make.query(), make.key_value("k"), make.key_value("v")
        self.q_norm = self.k_norm = None
        if config.qk_norm is not None:
            start = config.qk_norm**0.5  # logits are a product of both
            self.q_norm = HeadNorm(build, f"{name}.q_norm", self.head, config.norm_eps, start)
            self.k_norm = HeadNorm(build, f"{name}.k_norm", self.head, config.norm_eps, start)
        self.out = make.into_stream("out", config.heads * config.head)
        self.norm2 = Norm(build, f"{name}.norm2", width, config.norm_eps, config.norm)
        self.gate = make.into_mlp("gate") if config.gated else None
        self.up, self.down = make.into_mlp("up"), make.into_stream("down", config.mlp_width)
        self.expert = Expert(build, f"{name}.expert", config) if config.expert else None

    def forward(
        self,
        x: Tensor,
        table: tuple[Tensor, Tensor] | None,
        segments: Segments | None,
        cache: KeyValueCache | None = None,
        routes: Routes | None = None,
    ) -> Tensor:
        """x [T, W] -> [T, W]. With `cache`, T = S * N: S sequences that each grow by N positions.

        Args:
            table: rotation of queries and keys; none where positions are learned.
            routes: none: no position is a picture's.
        """
        h = self.norm1(x)
        q, k, v = (self._map(part, h, routes).view(x.shape[0], -1, self.head) for part in ("q", "k", "v"))
        if self.kv_of_q is not None:
            k, v = k[:, self.kv_of_q], v[:, self.kv_of_q]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        if cache is None:
            assert segments is not None
            mixed = attend(q, k, v, segments)
        else:
            q, k, v = (part.view(cache.sequences, -1, *part.shape[1:]) for part in (q, k, v))
            mixed = attend_cached(q, *cache.append(self.number, k, v), self.prefix)
        x = x + self._map("out", mixed.reshape(x.shape[0], -1), routes)
        h = self.norm2(x)
        if self.gate is None:
            return x + self._map("down", self.activation(self._map("up", h, routes)), routes)
        gated = self.activation(self._map("gate", h, routes)) * self._map("up", h, routes)
        return x + self._map("down", gated, routes)

    def _map(self, part: str, h: Tensor, routes: Routes | None) -> Tensor:
        """[T, I] -> [T, O] by the weights of each position. Both sets are called, also for no position: lockstep."""
        own = getattr(self, part)
        if self.expert is None or routes is None:
            return own(h)  # type: ignore[no-any-return]
        plain, expert = own(h[routes.plain]), getattr(self.expert, part)(h[routes.expert])
        out = plain.new_zeros(h.shape[0], plain.shape[1])
        return out.index_put((routes.plain,), plain).index_put((routes.expert,), expert)
