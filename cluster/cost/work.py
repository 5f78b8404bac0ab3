"""FLOPs, bytes that kernels move, and kernels, of one micro-step: what is computed, padding and recomputation included.

Useful FLOPs are beside them: real tokens only, six for each weight and token, as the trainer's own MFU counts them.
"""

from dataclasses import dataclass

from cluster.cost.activations import Numbers, keys_of
from cluster.cost.flow import Step
from cluster.cost.load import Load
from cluster.cost.ops import (
    Activation,
    Attend,
    Convolutions,
    Cross,
    HeadNorm,
    Linear,
    Lookup,
    Loss,
    Module,
    Norm,
    Op,
    Places,
    Scale,
)
from cluster.cost.parts import Model

FP32 = 4
OPTIMIZER_BYTES = 100
"""For each trained element: 20 passes of torch's AdamW over fp32 values, then clipping and the bf16 copy."""


@dataclass(frozen=True)
class Kernel:
    """One operation of one pass: matrix FLOPs, attention FLOPs, bytes that these products move, kernels started, and
    bytes that kernels of their own move (casts, copies, elementwise work)."""

    matrix: float = 0.0
    attention: float = 0.0
    moved: float = 0.0
    kernels: float = 1.0
    beside: float = 0.0


@dataclass(frozen=True)
class Pass:
    """A module's operations in forward and in backward (empty where nothing flows), `count` such modules."""

    part: str
    forward: tuple[Kernel, ...]
    backward: tuple[Kernel, ...]
    count: int
    block: bool
    """A repeated block: what activation checkpointing runs again."""


def passes(model: Model, load: Load, numbers: Numbers) -> list[Pass]:
    """Everything of one micro-step on one rank, alike modules joined."""
    made: dict[object, Pass] = {}
    for one in model.flow:
        key = (id(one.steps), one.module.stream, one.part)
        if key in made:
            old = made[key]
            made[key] = Pass(old.part, old.forward, old.backward, old.count + 1, old.block)
            continue
        pairs = [kernels(step, one.module, load, model.tp, numbers) for step in one.steps]
        backward = tuple(back for _, back in reversed(pairs) if back is not None)
        made[key] = Pass(one.part, tuple(ahead for ahead, _ in pairs), backward, 1, one.module.block > 0)
    return list(made.values())


def kernels(step: Step, module: Module, load: Load, tp: int, numbers: Numbers) -> tuple[Kernel, Kernel | None]:
    """(forward, backward) of an operation; backward is None where no gradient is wanted."""
    op, live, trained = step.op, step.live, step.trained
    n, m = load.over(op, module.stream), numbers.math
    if isinstance(op, Linear):
        inputs, outputs = op.inputs / (tp if op.cut == "row" else 1), op.outputs / (tp if op.cut == "column" else 1)
        flops = 2.0 * n * inputs * outputs
        moved = (n * (inputs + outputs) + inputs * outputs) * m
        cast = inputs * outputs * (numbers.weight + m) if numbers.weight != m else 0.0  # of the weight
        times = live + trained
        back = Kernel(flops * times, 0.0, moved * times, 2.0 * times, cast * times) if times else None
        return Kernel(flops, 0.0, moved, 2.0, cast), back
    if isinstance(op, Attend):
        return _attention(op, module, load, tp, numbers, live)
    if isinstance(op, Cross):
        return _cross(op, n, load, numbers, live)
    forward, backward, kernels_each = _elementwise(op, n, tp, numbers)
    if isinstance(op, Loss):
        flops = 2.0 * n * op.width * op.vocabulary / tp
        # The head's weight is cut; its gradient is computed where it is trained.
        back = Kernel(flops * (live + trained), beside=backward, kernels=8) if live or trained else None
        return Kernel(flops, beside=forward, kernels=12), back
    if isinstance(op, Convolutions):
        return Kernel(n * op.flops, beside=forward, kernels=160), None
    ahead = Kernel(beside=forward, kernels=kernels_each)
    return ahead, Kernel(beside=backward, kernels=2 * kernels_each) if step.back else None


def _cross(op: Cross, n: float, load: Load, numbers: Numbers, live: bool) -> tuple[Kernel, Kernel | None]:
    """As attention, on the keys of each view."""
    wide, keys, views = op.heads * op.head, keys_of(op, load), load.positions("views")
    flops, moved = 4.0 * n * keys / views * wide, 2.0 * (n + keys) * wide * numbers.attention
    forward = Kernel(attention=flops, beside=moved, kernels=12)
    return forward, Kernel(attention=2.5 * flops, beside=2 * moved, kernels=18) if live else None


def _attention(
    op: Attend, module: Module, load: Load, tp: int, numbers: Numbers, live: bool
) -> tuple[Kernel, Kernel | None]:
    """Two products forward, five backward (the fused kernel makes the scores again), and copies around them."""
    n, share, stretch = load.positions(module.stream), tp if op.cut else 1, load.stretch(module.stream, op.windows)
    wide, kv = op.heads * op.head / share, op.kv_heads * op.head / share
    flops = 4.0 * stretch.pairs * wide
    turning = 6.0 * n * (wide + kv) * numbers.math * op.rotated
    copies = 8.0 * stretch.gathered * wide * numbers.attention if stretch.padded else 4.0 * n * wide * numbers.math
    started = 12 + 8 * stretch.calls
    forward = Kernel(attention=flops, beside=turning + copies, kernels=started)
    return forward, Kernel(
        attention=2.5 * flops, beside=2 * (turning + copies), kernels=1.5 * started
    ) if live else None


def _elementwise(op: Op, n: float, tp: int, numbers: Numbers) -> tuple[float, float, float]:
    """(bytes forward, bytes backward, kernels). A norm stands for the residual sum beside it as well."""
    m = numbers.math
    if isinstance(op, Norm | HeadNorm):
        rows = n * (op.heads / (tp if op.cut else 1) if isinstance(op, HeadNorm) else 1)
        size = rows * op.width
        passes_of = 2 * FP32 + 4 * m if numbers.fused_norm else 6 * FP32 + 4 * m
        return size * passes_of, size * passes_of * 1.5, 4
    if isinstance(op, Activation):
        size = n * op.width / (tp if op.cut else 1) * m
        return size * (5 if op.gated else 2), size * (8 if op.gated else 3), 2 if op.gated else 1
    if isinstance(op, Scale | Places):
        return n * op.width * 3 * m, n * op.width * 4 * m, 2
    if isinstance(op, Lookup):
        return (
            n * op.width * (2 * numbers.weight + 2 * m),
            n * op.width * 3 * FP32 + op.vocabulary / tp * op.width * 6,
            4,
        )
    if isinstance(op, Loss):
        size = n * op.vocabulary / tp
        return size * (m + 8 * FP32), size * (m + 4 * FP32), 12
    if isinstance(op, Convolutions):
        return n * op.pixels * 3 * 4 * 20.0, 0.0, 160
    return 0.0, 0.0, 1


def useful_flops(model: Model, load: Load, vocabulary: int) -> float:
    """FLOPs over real tokens of the whole model, forward and backward whatever is frozen (the trainer's definition).

    Args:
        vocabulary: the tokenizer's, without padding.
    """
    total = 0.0
    for module in model.modules:
        for op in module.ops:
            total += useful_of(op, module, load, vocabulary)
    return total


def useful_of(op: Op, module: Module, load: Load, vocabulary: int) -> float:
    """FLOPs of one operation over real tokens, forward and backward."""
    n = load.useful(op.on or module.stream) * op.times + op.beside * load.useful("views")
    if isinstance(op, Linear):
        return 6.0 * n * op.inputs * op.outputs
    if isinstance(op, Attend):
        stretch = load.stretch(module.stream, op.windows)
        return 12.0 * stretch.useful * op.heads * op.head if n else 0.0
    if isinstance(op, Cross):
        keys = (load.useful("outputs") if op.reads else 0.0) + op.own * load.useful("views")
        return 12.0 * op.times * keys * op.heads * op.head
    return 6.0 * n * op.width * vocabulary if isinstance(op, Loss) else 0.0
