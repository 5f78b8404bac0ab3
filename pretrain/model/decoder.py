"""Decoder: Llama, Vicuna, SmolLM2, Qwen2 and 3, Gemma, OPT shapes; tensor-parallel over Megatron's linears.

Pre-norm layers of grouped-query attention and MLP; layers themselves are in decoder_layer.py. Legend: T flat positions, W
width.
"""

import torch
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from torch import Tensor, nn

from configs.decoder import DecoderConfig
from pretrain.model.attention import Segments, mrope_table, rope_table
from pretrain.model.cache import KeyValueCache
from pretrain.model.decoder_layer import DecoderLayer, Routes
from pretrain.model.learned import Embedding, Learned
from pretrain.model.linear import Builder, ColumnLinear
from pretrain.model.norm import Norm

MASKED_LOGIT = -1e9


class Decoder(nn.Module):
    """Embedding, layers, final norm and head. `vocabulary` is the tokenizer's; the weight is padded to a multiple."""

    def __init__(self, build: Builder, config: DecoderConfig, vocabulary: int):
        super().__init__()
        vocabulary = config.vocab_size or vocabulary
        self.vocabulary, self.sections = vocabulary, config.mrope_sections
        self.theta, self.scaling = config.rope_theta, config.rope_scaling
        self.prefix = config.attention == "prefix"
        self.embedding_scale = config.width**0.5 if config.scale_embeddings else 1.0
        self.head_size = config.head
        multiple = config.vocab_multiple
        padded = -(-vocabulary // multiple) * multiple
        if padded % build.tp_size:
            raise ValueError(f"vocabulary {padded} is not divided by tp {build.tp_size}: raise vocab_multiple")
        self.embedding = Embedding(build, "decoder.embedding", padded, config.width)
        self.places = None
        if config.positions == "learned":
            rows = config.first_position + config.max_length
            self.places = Learned(build, "decoder.positions.weight", rows, config.width, build.std)
        self.layers = nn.ModuleList(DecoderLayer(build, i, config) for i in range(config.layers))
        self.norm = Norm(build, "decoder.norm", config.width, config.norm_eps, config.norm)
        self.head = None if config.tied_head else ColumnLinear(build, "decoder.head", config.width, padded)
        self.first = build.tp_rank * (padded // build.tp_size)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        segments: Segments | None,
        cache: KeyValueCache | None = None,
        routes: Routes | None = None,
    ) -> Tensor:
        """[T, W] embedded inputs, [3, T] positions -> [T, W] normed hidden states."""
        if self.places is not None:
            x = x + self.places(positions[0]).to(x.dtype)
        table = self._table(positions)
        for layer in self.layers:
            x = layer(x, table, segments, cache, routes)
        if cache is not None:
            cache.length += x.shape[0] // cache.sequences
            last = positions.view(3, cache.sequences, -1)[:, :, -1]
            cache.following = last.max(0).values + 1
        return self.norm(x)

    def _table(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.places is not None:
            return None
        if self.sections is not None:
            return mrope_table(positions, self.head_size, self.theta, self.sections)
        return rope_table(positions[0], self.head_size, self.theta, self.scaling)

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
