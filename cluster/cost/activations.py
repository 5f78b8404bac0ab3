"""Bytes that autograd keeps from forward to backward, operation by operation, and the largest passing buffers.

What each operation saves was read from torch's saved tensors (tests/cluster/test_cost_activations.py): a norm its fp32
input and statistics, linears their shared input once, attention q, k, v, its output and log-sum-exp, gates three
buffers, the loss the whole softmax in fp32. Parameters are not counted, nor is anything above the first trained one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.cost.load import Load
from cluster.cost.ops import Activation, Attend, HeadNorm, Linear, Lookup, Loss, Module, Norm, Op
from cluster.cost.parts import Model, Placed

FP32, INT64 = 4, 8


@dataclass(frozen=True)
class Numbers:
    """Bytes of an element, and kernels that decide what is kept."""

    weight: int = 2
    math: int = 2
    attention: int = 2
    fused_norm: bool = True
    """RMSNorm is one kernel (GPU) that keeps its input alone; else the normalized input is kept too."""


@dataclass(frozen=True)
class Activations:
    """Bytes on one rank in one micro-step. `spike`: the largest buffers that come and go."""

    by_part: dict[str, float]
    recomputed: float
    """The same where blocks keep their input alone and run forward again."""
    spike: float

    @property
    def total(self) -> float:
        return sum(self.by_part.values())


def activations(model: Model, load: Load, numbers: Numbers) -> Activations:
    """What one micro-step keeps, by part of the model."""
    by_part: dict[str, float] = {}
    kept, largest, spike = 0.0, 0.0, 0.0
    memo: dict[tuple[object, ...], tuple[float, bool]] = {}
    for module, live in flow(model):
        held = model.of(module)
        key = (module.ops, module.stream, live, tuple(p.trained for p in held))
        if key not in memo:
            memo[key] = saved_by(module, held, load, model.tp, numbers, live)
        size, _ = memo[key]
        part = module.name.split(".")[0] if module.stream != "labels" else "loss"
        by_part[part] = by_part.get(part, 0.0) + size
        block = len(module.ops) > 4 and any(isinstance(op, Attend) for op in module.ops)
        if block and live:
            width = next(op.width for op in module.ops if isinstance(op, Norm))
            kept += load.positions(module.stream) * width * numbers.math
            largest = max(largest, size)
        else:
            kept += size
        spike = max(spike, passing(module, load, model.tp, numbers, live or any(p.trained for p in held)))
    shared = tables(model, load)
    by_part["decoder"] = by_part.get("decoder", 0.0) + shared
    return Activations(by_part, kept + largest + shared, spike)


def flow(model: Model) -> list[tuple[Module, bool]]:
    """Modules and whether a gradient flows back out of each (something before it is trained)."""
    out: list[tuple[Module, bool]] = []
    vision = text = False
    for module in model.modules:
        if module.stream in ("patches", "views"):
            out.append((module, vision))
            vision = vision or any(p.trained for p in model.of(module))
        elif module.stream == "newlines":
            out.append((module, False))
            text = text or any(p.trained for p in model.of(module))
        else:
            lookup = any(isinstance(op, Lookup) for op in module.ops)
            text = (text or vision) if not lookup else text
            out.append((module, text and not lookup))
            text = text or any(p.trained for p in model.of(module))
    return out


def saved_by(
    module: Module, held: Sequence[Placed], load: Load, tp: int, numbers: Numbers, live: bool
) -> tuple[float, bool]:
    """(bytes, whether gradients flow behind it) of one module."""
    total, place = 0.0, 0
    for op in module.ops:
        count = len(op.weights())
        trained = any(p.trained for p in held[place : place + count])
        if isinstance(op, Loss):
            trained = trained or any(p.trained for p in held)
        place += count
        if live or trained:
            total += _saved(op, module, load, tp, numbers, trained)
        live = live or trained
    return total, live


def _saved(op: Op, module: Module, load: Load, tp: int, numbers: Numbers, trained: bool) -> float:
    n = load.positions(module.stream)
    if isinstance(op, Linear):
        return n * op.inputs / (tp if op.cut == "row" else 1) * numbers.math if op.first else 0.0
    if isinstance(op, Norm | HeadNorm):
        rows = n * (op.heads / (tp if op.cut else 1) if isinstance(op, HeadNorm) else 1)
        rms = isinstance(op, HeadNorm) or op.kind == "rms"
        twice = 2 if rms and trained and not numbers.fused_norm else 1
        copies = 0 if numbers.weight == FP32 else op.width * FP32 * (1 if rms else 2)
        return rows * op.width * FP32 * twice + rows * FP32 * (1 if rms else 2) + copies
    if isinstance(op, Attend):
        stretch, heads = load.stretch(module.stream), op.heads / (tp if op.cut else 1)
        wide = heads * op.head
        kept = 4 * stretch.gathered * wide * numbers.attention + stretch.gathered * heads * FP32
        turned = 0.0 if numbers.math == FP32 else 4 * n * op.head * numbers.math / 2
        return kept + turned + (0.0 if stretch.padded else n * INT64)
    if isinstance(op, Activation):
        return n * op.width / (tp if op.cut else 1) * numbers.math * (3 if op.gated else 1)
    if isinstance(op, Lookup):
        return n * INT64 + (n * (INT64 + 1) if tp > 1 else 0)
    if isinstance(op, Loss):
        vocabulary = op.vocabulary / tp
        return n * (op.width * numbers.math + vocabulary * FP32 + 2 * INT64 + 1 + FP32) + vocabulary
    return 0.0


def tables(model: Model, load: Load) -> float:
    """What layers share: angles of the rotation, places of segments, places of visual tokens."""
    total = 0.0
    for stream in ("text", "patches"):
        op = next(
            (o for m, live in flow(model) for o in m.ops if isinstance(o, Attend) and m.stream == stream and live), None
        )
        if op is None:
            continue
        stretch = load.stretch(stream)
        total += stretch.positions * op.head * FP32
        total += (stretch.gathered + 2 * stretch.real) * INT64 if stretch.padded else 0
    return total + load.visual * INT64 * (2 if load.ordered else 1) + load.newlines * INT64


def passing(module: Module, load: Load, tp: int, numbers: Numbers, live: bool) -> float:
    """Largest buffers that live only while a module runs: an MLP's, or logits with their gradient."""
    n, largest = load.positions(module.stream), 0.0
    for op in module.ops:
        if isinstance(op, Loss):
            # logits in the math dtype, in fp32, masked, and the softmax's gradient
            largest = max(largest, n * op.vocabulary / tp * (numbers.math + 3 * FP32))
        if isinstance(op, Activation):
            buffers = (4 if live else 2) * (2 if op.gated else 1)
            largest = max(largest, n * op.width / (tp if op.cut else 1) * numbers.math * buffers)
    return largest
