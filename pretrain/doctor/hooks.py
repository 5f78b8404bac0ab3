"""What DeepSpeed takes around the work, by ZeRO stage, and what AdamW takes for an update.

Stacks of linears under the engine against the same stacks without one: the difference is not their work. Small ones tell
what a parameter and a gathered module take, a wide one what an element does.
"""

import gc
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from configs.training import OptimConfig, ParallelConfig
from pretrain.doctor.peaks import clock
from pretrain.engine import Engine
from pretrain.mesh import Mesh, math_dtype, param_dtype, synchronize
from pretrain.model.linear import Builder, WholeLinear
from pretrain.optim import make_optimizer, set_rates
from pretrain.stages import apply_stage
from pretrain.zero_config import born

POSITIONS = 4
SMALL, WIDE = 16, 512
SINGLE, JOINED, LARGE = (32, 1, SMALL), (4, 8, SMALL), (4, 1, WIDE)
"""(blocks, linears of each, width). A block's parameters are gathered at once."""
STAGES = ((0, "fp32"), (1, "bf16"), (3, "bf16"))


class Block(nn.Module):
    """Linears one after another."""

    def __init__(self, build: Builder, name: str, linears: int, width: int):
        super().__init__()
        self.linears = nn.ModuleList(WholeLinear(build, f"{name}.{n}", width, width) for n in range(linears))

    def forward(self, x: Tensor) -> Tensor:
        for linear in self.linears:
            x = linear(x)
        return x


class Stack(nn.Module):
    """Blocks one after another, and a sum that can be differentiated."""

    def __init__(self, build: Builder, blocks: int, linears: int, width: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(build, f"decoder.layers.{n}", linears, width) for n in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x.float().sum()


def engine_times(mesh: Mesh, quick: bool) -> dict[str, Any]:
    """Stage -> seconds around a parameter, a gathered module and an element in a micro-step, and in an update."""
    steps = 4 if quick else 12
    found: dict[str, Any] = {}
    for stage, precision in STAGES:
        shapes = [SINGLE, LARGE, *([JOINED] if stage == 3 else [])]
        around, updates = {}, {}
        for shape in shapes:
            passes, updates[shape] = _engine(mesh, stage, precision, shape, steps)
            gc.collect()
            around[shape] = max(0.0, passes - _plain(mesh, precision, shape, steps))
        count = SINGLE[0] * SINGLE[1]
        single = around[SINGLE] / count  # of a module of one parameter
        module = 0.0
        if stage == 3:  # joined: parameter + module / 8
            module = max(0.0, (single - around[JOINED] / count) * JOINED[1] / (JOINED[1] - 1))
        elements = LARGE[0] * LARGE[1] * WIDE**2
        each, update = single, updates[SINGLE] / count
        found[str(stage)] = {
            "parameter": max(0.0, single - module),
            "module": module,
            "element": max(0.0, around[LARGE] - LARGE[0] * each) / elements,
            "update_parameter": update,
            "update_element": max(0.0, updates[LARGE] - LARGE[0] * update) / elements,
        }
    return found


def _engine(mesh: Mesh, stage: int, precision: str, shape: tuple[int, int, int], steps: int) -> tuple[float, float]:
    """Least seconds of (forward and backward, update) of a stack under the engine."""
    import deepspeed

    parallel = ParallelConfig(zero=cast(Any, stage), precision=cast(Any, precision))
    with born(parallel, mesh):
        stack = Stack(Builder(0, 0, 1, param_dtype(precision), mesh.device), *shape)
    if stage == 3:
        deepspeed.utils.set_z3_leaf_modules(stack, [Block])
    table = apply_stage(stack, {"decoder": 1e-3})
    engine = Engine(stack, make_optimizer(table, OptimConfig()), parallel, mesh, 1, 1.0)
    x = _input(mesh, engine.math, shape[2])

    def forward() -> None:
        engine.backward(cast(Any, engine.forward(cast(Any, x))))

    def update() -> None:
        set_rates(engine.optimizer, 1.0)
        engine.step()

    passes = updating = float("inf")
    for _ in range(steps + 3):  # ZeRO-3 learns its order in the first ones
        one, two = _seconds(forward, mesh), _seconds(update, mesh)
        passes, updating = min(passes, one), min(updating, two)
    engine.deepspeed.destroy()
    return passes, updating


def _plain(mesh: Mesh, precision: str, shape: tuple[int, int, int], steps: int) -> float:
    """Least seconds of forward and backward of a stack by itself."""
    stack = Stack(Builder(0, 0, 1, param_dtype(precision), mesh.device), *shape)
    x = _input(mesh, math_dtype(precision), shape[2])

    def work() -> None:
        stack.zero_grad()
        stack(x).backward()

    return min(_seconds(work, mesh) for _ in range(steps + 3))


def _input(mesh: Mesh, dtype: torch.dtype, width: int) -> Tensor:
    return torch.ones(POSITIONS, width, device=mesh.device, dtype=dtype).requires_grad_()


def _seconds(work: Callable[[], Any], mesh: Mesh) -> float:
    now = clock(mesh)
    start = now()
    work()
    synchronize(mesh.device)
    return now() - start
