"""Learned rows: the token embedding, and rows that are looked up or used as they are."""

from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from torch import Tensor, nn

from pretrain.model.linear import Builder, LogicalTensor, cast_linear, fill, mark


class Lookup(torch.autograd.Function):
    """weight[ids] whose gradient is summed in fp32: a mark seen hundreds of times a row would drown in bf16."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shape, ctx.dtype = weight.shape, weight.dtype
        return weight[ids]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (ids,) = ctx.saved_tensors
        total = torch.zeros(ctx.shape, dtype=torch.float32, device=ids.device)
        return None, total.index_add_(0, ids, grads[0].float()).to(ctx.dtype)


class Learned(nn.Module):
    """Learned rows [rows, width] that are used as they are: queries, a newline, positions, factors of a branch.

    A module of its own, so that ZeRO-3's hooks gather it. `start`: spread of the drawn values, or with `ones` all one.
    """

    def __init__(self, build: Builder, name: str, rows: int, width: int, start: float, ones: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width, dtype=build.dtype, device=build.device))
        logical = LogicalTensor(name, (rows, width))
        if ones:
            with torch.no_grad():
                self.weight.fill_(start)
            mark(self.weight, logical)
        else:
            fill(self.weight, build, logical, start)

    def forward(self, index: Tensor | None = None) -> Tensor:
        """All rows, or those of `index` [T]: [T, width], whose gradient is summed in fp32."""
        return self.weight if index is None else Lookup.apply(index, self.weight)  # type: ignore[return-value]


class Embedding(tensor_parallel.VocabParallelEmbedding):
    """[T] ids -> [T, width], and, where the head is tied, [T, width] -> [T, vocabulary / TP] logits.

    The vocabulary (padded to a fixed multiple) is cut over TP. Both directions are calls of this one module, so that
    ZeRO-3's hooks gather the weight for either.
    """

    def __init__(self, build: Builder, name: str, vocabulary: int, width: int):
        super().__init__(vocabulary, width, init_method=lambda t: t, config=build.megatron)
        self.first = build.tp_rank * (vocabulary // build.tp_size)
        logical = LogicalTensor(f"{name}.weight", (vocabulary, width), 0, self.first)
        fill(self.weight, build, logical, build.std)
        self.cut = build.tp_size > 1

    def forward(self, x: Tensor, as_head: bool = False) -> Tensor:  # type: ignore[override]
        if as_head:
            return cast_linear(copy_to_tensor_model_parallel_region(x) if self.cut else x, self.weight)
        if not self.cut:
            return Lookup.apply(x, self.weight)  # type: ignore[return-value]
        local = x - self.first
        outside = (local < 0) | (local >= self.num_embeddings_per_partition)
        out = Lookup.apply(local.masked_fill(outside, 0), self.weight)
        return reduce_from_tensor_model_parallel_region(out.masked_fill(outside[:, None], 0.0))  # type: ignore[union-attr]
