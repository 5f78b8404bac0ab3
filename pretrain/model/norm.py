"""Norms: RMSNorm and LayerNorm in fp32, and RMSNorm of each head."""

import torch
from megatron.core.tensor_parallel.mappings import copy_to_tensor_model_parallel_region
from torch import Tensor, nn

from pretrain.model.linear import Builder, LogicalTensor, mark


class Norm(nn.Module):
    """RMSNorm (Zhang & Sennrich 2019) or LayerNorm over the last dimension, computed in fp32.

    `kind` rms_zero_centered keeps the weight's difference from one (Gemma, arXiv 2403.08295).
    """

    def __init__(self, build: Builder, name: str, width: int, eps: float, kind: str = "rms"):
        super().__init__()
        self.eps, self.kind = eps, kind
        start = torch.zeros if kind == "rms_zero_centered" else torch.ones
        self.weight = nn.Parameter(start(width, dtype=build.dtype, device=build.device))
        mark(self.weight, LogicalTensor(f"{name}.weight", (width,)))
        self.bias = None
        if kind == "layer":
            self.bias = nn.Parameter(torch.zeros(width, dtype=build.dtype, device=build.device))
            mark(self.bias, LogicalTensor(f"{name}.bias", (width,)))

    def forward(self, x: Tensor) -> Tensor:
        shape, weight = (x.shape[-1],), self.weight.float()
        if self.kind == "rms_zero_centered":
            weight = weight + 1.0
        if self.bias is not None:
            out = nn.functional.layer_norm(x.float(), shape, weight, self.bias.float(), self.eps)
        else:
            out = nn.functional.rms_norm(x.float(), shape, weight, self.eps)
        return out.to(x.dtype)


class HeadNorm(Norm):
    """RMSNorm of each head's queries or keys [T, H, D] with one weight [D] for all heads (Qwen3, arXiv 2505.09388).

    TP ranks hold other heads, so each has a part of the weight's gradient: they are summed.
    """

    def __init__(self, build: Builder, name: str, head: int, eps: float, start: float):
        super().__init__(build, name, head, eps)
        with torch.no_grad():
            self.weight.fill_(start)
        self.cut = build.tp_size > 1

    def forward(self, x: Tensor) -> Tensor:
        weight = copy_to_tensor_model_parallel_region(self.weight.float()) if self.cut else self.weight.float()
        return nn.functional.rms_norm(x.float(), (x.shape[-1],), weight, self.eps).to(x.dtype)
