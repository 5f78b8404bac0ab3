"""Parameters with a logical name, and Megatron-core's parallel linears on them.

Every weight is drawn whole from a generator seeded by (seed, logical name), then sliced for this TP rank: initial
weights do not depend on TP. Products run in the *input's* dtype: bf16 weights serve fp32 activations where the
device is slow at bf16 (pretrain/mesh.py), by re-casting in backward rather than keeping an fp32 copy.

Legend: T positions, I input features, O output features.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.model_parallel_config import ModelParallelConfig
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
)
from torch import Tensor, nn


@dataclass(frozen=True)
class LogicalTensor:
    """What a parameter is in the whole model: its name, full shape, and where this rank's slice lies.

    `axis` is the dimension that TP cuts (None: every TP rank holds the whole), `offset` the slice's start on it.
    """

    name: str
    shape: tuple[int, ...]
    axis: int | None = None
    offset: int = 0


@dataclass(frozen=True)
class Builder:
    """Plain numbers that every part is built from: seed, TP place, dtype of parameters, device."""

    seed: int
    tp_rank: int
    tp_size: int
    dtype: torch.dtype
    device: torch.device
    std: float = 0.02

    @property
    def megatron(self) -> ModelParallelConfig:
        return ModelParallelConfig(
            tensor_model_parallel_size=self.tp_size,
            use_cpu_initialization=True,
            perform_initialization=False,
            params_dtype=self.dtype,
            gradient_accumulation_fusion=False,
        )

    def draw(self, name: str, shape: tuple[int, ...], std: float) -> Tensor:
        """The logical tensor `name`, whole, fp32, on the host: the same on every rank and for every TP."""
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return torch.randn(shape, generator=generator, dtype=torch.float32, device=generator.device) * std


def mark(parameter: nn.Parameter, logical: LogicalTensor) -> None:
    """Give a parameter its logical place. DeepSpeed's norm reads `tensor_model_parallel`: cut parameters are summed over
    TP ranks, replicated ones counted once (without it the norm, and so the clipping, is wrong under TP)."""
    parameter.looksay_logical = logical  # type: ignore[attr-defined]
    parameter.tensor_model_parallel = logical.axis is not None  # type: ignore[attr-defined]


def logical_of(parameter: nn.Parameter) -> LogicalTensor:
    return parameter.looksay_logical  # type: ignore[attr-defined]


def fill(parameter: nn.Parameter, build: Builder, logical: LogicalTensor, std: float) -> None:
    """Write this rank's slice of the drawn tensor into `parameter` and mark it."""
    whole = build.draw(logical.name, logical.shape, std)
    if logical.axis is not None:
        whole = whole.narrow(logical.axis, logical.offset, parameter.shape[logical.axis])
    with torch.no_grad():
        parameter.copy_(whole)
    mark(parameter, logical)


class _CastLinear(torch.autograd.Function):
    """x W^T with W cast to x's dtype in forward and again in backward; dgrad summed over TP where asked.

    The parameter itself is saved, so under ZeRO-3 (which swaps `.data` between the passes) backward reads the
    re-gathered weight, and no cast copy lives between them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.to(x.dtype).t()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grads[0]
        grad_x = grad @ weight.to(grad.dtype) if ctx.needs_input_grad[0] else None
        grad_w = None
        if ctx.needs_input_grad[1]:
            grad_w = (grad.reshape(-1, grad.shape[-1]).t() @ x.reshape(-1, x.shape[-1])).to(weight.dtype)
        return grad_x, grad_w


def cast_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., I] @ weight [O, I]^T in x's dtype."""
    return _CastLinear.apply(x, weight)  # type: ignore[return-value]


def _cast_forward(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, allreduce_dgrad: bool = False, **_: Any
) -> Tensor:
    """Stands in for Megatron's `_forward_impl`: same contract, with the cast; async overlap is left to GPUs."""
    if allreduce_dgrad:
        input = copy_to_tensor_model_parallel_region(input)
    out = cast_linear(input, weight)
    return out if bias is None else out + bias.to(out.dtype)


class ColumnLinear(tensor_parallel.ColumnParallelLinear):
    """[T, I] -> [T, O / TP]: the output features are cut."""

    def __init__(
        self, build: Builder, name: str, inputs: int, outputs: int, std: float | None = None, bias: bool = False
    ):
        super().__init__(
            inputs, outputs, config=build.megatron, init_method=lambda t: t, bias=False, gather_output=False
        )
        mine = outputs // build.tp_size
        logical = LogicalTensor(f"{name}.weight", (outputs, inputs), 0, build.tp_rank * mine)
        fill(self.weight, build, logical, build.std if std is None else std)
        self.shift: nn.Parameter | None = None
        if bias:
            self.shift = nn.Parameter(torch.zeros(mine, dtype=build.dtype, device=build.device))
            mark(self.shift, LogicalTensor(f"{name}.bias", (outputs,), 0, build.tp_rank * mine))

    def _forward_impl(self, input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _cast_forward(input, weight, **kwargs)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        out = super().forward(x)[0]
        return out if self.shift is None else out + self.shift.to(out.dtype)


class RowLinear(tensor_parallel.RowParallelLinear):
    """[T, I / TP] -> [T, O]: the input features are cut, partial sums are reduced over TP; a bias is added once, after it."""

    def __init__(
        self, build: Builder, name: str, inputs: int, outputs: int, std: float | None = None, bias: bool = False
    ):
        super().__init__(
            inputs,
            outputs,
            config=build.megatron,
            init_method=lambda t: t,
            bias=False,
            input_is_parallel=True,
            skip_bias_add=False,
        )
        mine = inputs // build.tp_size
        logical = LogicalTensor(f"{name}.weight", (outputs, inputs), 1, build.tp_rank * mine)
        fill(self.weight, build, logical, build.std if std is None else std)
        self.shift: nn.Parameter | None = None
        if bias:
            self.shift = nn.Parameter(torch.zeros(outputs, dtype=build.dtype, device=build.device))
            mark(self.shift, LogicalTensor(f"{name}.bias", (outputs,)))

    def _forward_impl(self, input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _cast_forward(input, weight, **kwargs)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        out = super().forward(x)[0]
        return out if self.shift is None else out + self.shift.to(out.dtype)


class WholeLinear(nn.Module):
    """[T, I] -> [T, O], the same on every TP rank.

    `partial` is for a whole weight whose outputs feed cut modules (KV heads that TP does not divide): each TP rank
    then sees only its part of the gradient, which is summed here so that the replicas stay equal.
    """

    def __init__(
        self,
        build: Builder,
        name: str,
        inputs: int,
        outputs: int,
        bias: bool = False,
        std: float | None = None,
        partial: bool = False,
    ):
        super().__init__()
        self.partial = partial
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=build.dtype, device=build.device))
        fill(self.weight, build, LogicalTensor(f"{name}.weight", (outputs, inputs)), build.std if std is None else std)
        self.bias = None
        if bias:
            self.bias = nn.Parameter(torch.zeros(outputs, dtype=build.dtype, device=build.device))
            mark(self.bias, LogicalTensor(f"{name}.bias", (outputs,)))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if self.partial:
            x, weight = copy_to_tensor_model_parallel_region(x), copy_to_tensor_model_parallel_region(weight)
            bias = None if bias is None else copy_to_tensor_model_parallel_region(bias)
        out = cast_linear(x, weight)
        return out if bias is None else out + bias.to(out.dtype)
