"""The model's own operations, forward and backward, beside what the cost model counts for them (cluster/cost/work.py).

A rate here is counted work / measured seconds, so it holds whatever is between: allocation, casts, Python.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cluster.cost.activations import Numbers
from cluster.cost.flow import Step
from cluster.cost.load import Load
from cluster.cost.ops import Activation, Attend, Linear, Module, Norm, Op
from cluster.cost.segments import stretch_of
from cluster.cost.work import Kernel, kernels
from pretrain.doctor.peaks import fastest
from pretrain.mesh import Mesh, attention_dtype, has_gpu, math_dtype
from pretrain.model.activations import ACTIVATIONS
from pretrain.model.attention import Segments, attend, rope_table, rotate
from pretrain.model.linear import Builder, WholeLinear
from pretrain.model.norm import Norm as NormModule

POSITIONS, WIDTH, MLP = 512, 512, 1408
"""Small enough that some calls are undisturbed on a machine that others use."""
TINY_POSITIONS, TINY_WIDTH = 8, 64
HEADS = ((8, 64), (4, 32))
"""(heads, their size): a small one is slower for each FLOP, its scores cost the same."""
LENGTHS = (32, 64, 96, 128, 192, 256)
"""Of segments: captions and small pictures, questions and answers."""
BYTES = {torch.float32: 4, torch.bfloat16: 2}


def rates(mesh: Mesh, precision: str, quick: bool) -> dict[str, Any]:
    """Seconds of an operation beside its work; FLOP/s of linears and attention, bytes per second of the rest."""
    bench = Bench(mesh, precision, 0.2 if quick else 0.6)
    launch = bench.launch()
    moving = bench.moving(launch)
    return {
        "launch": launch,
        "moving": moving,
        "linear": bench.linear(launch, moving),
        "attention": bench.attention(launch, moving),
        "math": "bf16" if bench.math == torch.bfloat16 else "fp32",
        "attention_dtype": "bf16" if attention_dtype(bench.math) == torch.bfloat16 else "fp32",
    }


class Bench:
    def __init__(self, mesh: Mesh, precision: str, seconds: float):
        self.mesh, self.seconds = mesh, seconds
        self.math = math_dtype(precision)
        self.weight = torch.bfloat16 if precision == "bf16" else torch.float32
        self.build = Builder(0, 0, 1, self.weight, mesh.device)
        self.numbers = Numbers(BYTES[self.weight], BYTES[self.math], BYTES[attention_dtype(self.math)], has_gpu())

    def timed(self, work: Any, *inputs: Tensor) -> float:
        """Seconds of forward and backward."""

        grad = torch.ones_like(work(*inputs))

        def both() -> None:
            for one in inputs:
                one.grad = None
            work(*inputs).backward(grad)

        return fastest(both, self.mesh, self.seconds)

    def counted(self, op: Op, positions: int, lengths: tuple[int, ...] = ()) -> Kernel:
        """What the cost model counts for an operation, forward and backward together."""
        load = Load(text=stretch_of(lengths or (positions,), positions, causal=True))
        ahead, back = kernels(Step(op, True, True), Module("layer", "text", (op,)), load, 1, self.numbers)
        assert back is not None
        parts = zip(vars(ahead).values(), vars(back).values(), strict=True)
        return Kernel(*(a + b for a, b in parts))

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.mesh.device).to(self.math).requires_grad_()

    def elementwise(self, positions: int, width: int) -> tuple[float, Kernel]:
        """A norm with a residual sum, and a gated activation: (seconds, what is counted)."""
        norm = NormModule(self.build, "norm", width, 1e-6)
        one = self.timed(lambda x: x + norm(x), self.random(positions, width))
        silu = ACTIVATIONS["silu"]
        two = self.timed(lambda x, y: silu(x) * y, self.random(positions, width), self.random(positions, width))
        a = self.counted(Norm("norm", width), positions)
        b = self.counted(Activation("silu", width, gated=True), positions)
        return one + two, Kernel(kernels=a.kernels + b.kernels, beside=a.beside + b.beside)

    def launch(self) -> float:
        """Seconds of an operation that has next to nothing to do."""
        seconds, counted = self.elementwise(TINY_POSITIONS, TINY_WIDTH)
        return seconds / counted.kernels

    def moving(self, launch: float) -> float:
        """Bytes per second of elementwise operations that make their outputs anew, as in training."""
        seconds, counted = self.elementwise(POSITIONS, WIDTH)
        return counted.beside / max(seconds - counted.kernels * launch, seconds / 10)

    def linear(self, launch: float, moving: float) -> float:
        """FLOP/s of linears."""
        total = flops = 0.0
        for inputs, outputs in ((WIDTH, MLP), (MLP, WIDTH), (WIDTH, WIDTH)):
            layer: nn.Module = WholeLinear(self.build, "linear", inputs, outputs)
            seconds = self.timed(layer, self.random(POSITIONS, inputs))
            counted = self.counted(Linear("linear", inputs, outputs), POSITIONS)
            total += max(seconds - counted.kernels * launch, seconds / 10)
            flops += counted.matrix
        return flops / total

    def attention(self, launch: float, moving: float) -> float:
        """FLOP/s of attention inside segments, less the copies around it."""
        total = sum(LENGTHS)
        ends = np.cumsum(LENGTHS)
        segments = Segments(np.stack([ends - LENGTHS, ends], 1), total, True, self.mesh.device)
        taken = flops = 0.0
        for heads, head in HEADS:
            table = rope_table(torch.arange(total, device=self.mesh.device), head, 10_000.0)

            def work(q: Tensor, k: Tensor, v: Tensor, table: Any = table) -> Tensor:
                return attend(rotate(q, table), rotate(k, table), v, segments)

            seconds = self.timed(work, *(self.random(total, heads, head) for _ in range(3)))
            counted = self.counted(Attend(heads, heads, head, True, False), total, LENGTHS)
            taken += max(seconds - counted.beside / moving - counted.kernels * launch, seconds / 4)
            flops += counted.attention
        return flops / taken
