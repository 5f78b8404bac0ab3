"""Llama-shaped decoder: RMSNorm, grouped-query attention with RoPE, SwiGLU; tensor-parallel over Megatron's linears.

Legend: T flat positions, W width, H heads of this rank, K key/value heads of this rank, D head size.
"""

import torch
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from torch import Tensor, nn
from torch.nn import functional as F

from configs.model import DecoderConfig
from pretrain.model.attention import Segments, attend, attend_cached, rope_table, rotate
from pretrain.model.linear import Builder, ColumnLinear, Embedding, HeadNorm, Norm, RowLinear, WholeLinear

MASKED_LOGIT = -1e9


class KeyValueCache:
    """Keys and values of S sequences of equal length, room for `room` positions, one pair a layer."""

    def __init__(self, sequences: int, room: int):
        self.sequences, self.room, self.length = sequences, room, 0
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add [S, N, K, D] at the end; returns all so far, [S, length + N, K, D]."""
        if layer not in self.keys:
            shape = (self.sequences, self.room, *k.shape[2:])
            self.keys[layer], self.values[layer] = k.new_empty(shape), v.new_empty(shape)
        end = self.length + k.shape[1]
        self.keys[layer][:, self.length : end] = k
        self.values[layer][:, self.length : end] = v
        return self.keys[layer][:, :end], self.values[layer][:, :end]


class DecoderLayer(nn.Module):
    def __init__(self, build: Builder, number: int, config: DecoderConfig):
        super().__init__()
        name, width = f"decoder.layers.{number}", config.width
        self.number, self.head = number, width // config.heads
        kv_heads = config.kv_heads or config.heads
        # GPT-2's scaling of what writes into the residual stream.
        std = build.std / (2 * config.layers) ** 0.5 if config.scaled_residual else build.std
        self.norm1 = Norm(build, f"{name}.norm1", width, config.norm_eps)
        self.q = ColumnLinear(build, f"{name}.q", width, width)
        self.shared_kv = kv_heads % build.tp_size != 0
        if self.shared_kv:  # TP does not divide the KV heads: every rank holds all and uses those of its query heads
            self.k = WholeLinear(build, f"{name}.k", width, kv_heads * self.head, partial=True)
            self.v = WholeLinear(build, f"{name}.v", width, kv_heads * self.head, partial=True)
            mine = config.heads // build.tp_size
            first, group = build.tp_rank * mine, config.heads // kv_heads
            self.kv_of_q = [(first + i) // group for i in range(mine)]
        else:
            self.k = ColumnLinear(build, f"{name}.k", width, kv_heads * self.head)
            self.v = ColumnLinear(build, f"{name}.v", width, kv_heads * self.head)
        self.q_norm = self.k_norm = None
        if config.qk_norm is not None:
            start = config.qk_norm**0.5  # logits are a product of both
            self.q_norm = HeadNorm(build, f"{name}.q_norm", self.head, config.norm_eps, start)
            self.k_norm = HeadNorm(build, f"{name}.k_norm", self.head, config.norm_eps, start)
        self.out = RowLinear(build, f"{name}.out", width, width, std=std)
        self.norm2 = Norm(build, f"{name}.norm2", width, config.norm_eps)
        self.gate = ColumnLinear(build, f"{name}.gate", width, config.mlp_width)
        self.up = ColumnLinear(build, f"{name}.up", width, config.mlp_width)
        self.down = RowLinear(build, f"{name}.down", config.mlp_width, width, std=std)

    def forward(
        self, x: Tensor, table: tuple[Tensor, Tensor], segments: Segments | None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """x [T, W] -> [T, W]. With `cache`, T = S * N: S sequences that each grow by N positions."""
        h = self.norm1(x)
        q, k, v = (part(h).view(x.shape[0], -1, self.head) for part in (self.q, self.k, self.v))
        if self.shared_kv:
            k, v = k[:, self.kv_of_q], v[:, self.kv_of_q]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, table), rotate(k, table)
        if cache is None:
            assert segments is not None
            mixed = attend(q, k, v, segments)
        else:
            q, k, v = (part.view(cache.sequences, -1, *part.shape[1:]) for part in (q, k, v))
            mixed = attend_cached(q, *cache.append(self.number, k, v))
        x = x + self.out(mixed.reshape(x.shape[0], -1))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Decoder(nn.Module):
    """Embedding, layers, final norm and head. `vocabulary` is the tokenizer's; the weight is padded to a multiple."""

    def __init__(self, build: Builder, config: DecoderConfig, vocabulary: int):
        super().__init__()
        vocabulary = config.vocab_size or vocabulary
        self.vocabulary, self.theta = vocabulary, config.rope_theta
        self.embedding_scale = config.width**0.5 if config.scale_embeddings else 1.0
        self.head_size = config.width // config.heads
        multiple = config.vocab_multiple
        padded = -(-vocabulary // multiple) * multiple
        if padded % build.tp_size:
            raise ValueError(f"vocabulary {padded} is not divided by tp {build.tp_size}: raise vocab_multiple")
        self.embedding = Embedding(build, "decoder.embedding", padded, config.width)
        self.layers = nn.ModuleList(DecoderLayer(build, i, config) for i in range(config.layers))
        self.norm = Norm(build, "decoder.norm", config.width, config.norm_eps)
        self.head = None if config.tied_head else ColumnLinear(build, "decoder.head", config.width, padded)
        self.first = build.tp_rank * (padded // build.tp_size)

    def forward(
        self, x: Tensor, positions: Tensor, segments: Segments | None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """[T, W] embedded inputs, [3, T] positions -> [T, W] normed hidden states."""
        table = rope_table(positions[0], self.head_size, self.theta)
        for layer in self.layers:
            x = layer(x, table, segments, cache)
        if cache is not None:
            cache.length += x.shape[0] // cache.sequences
        return self.norm(x)

    def embed(self, ids: Tensor, math: torch.dtype) -> Tensor:
        """[T] ids -> [T, W] inputs of the first layer."""
        return self.embedding(ids).to(math) * self.embedding_scale

    def logits(self, hidden: Tensor) -> Tensor:
        """[K, W] -> [K, vocabulary / TP] fp32; columns that only pad the vocabulary are masked."""
        out = self.embedding(hidden, as_head=True) if self.head is None else self.head(hidden)
        out = out.float()
        padding = torch.arange(out.shape[-1], device=out.device) + self.first >= self.vocabulary
        return out.masked_fill(padding, MASKED_LOGIT)

    def cross_entropy(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """[K, W], [K] -> [K] losses, over the vocabulary of all TP ranks."""
        return vocab_parallel_cross_entropy(self.logits(hidden), targets)
