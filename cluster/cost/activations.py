"""Bytes that autograd keeps from forward to backward, operation by operation, and the largest passing buffers.

What each operation keeps was read from torch's saved tensors (tests/cluster/test_cost_families.py): a norm its fp32
input and statistics, linears their shared input once, attention q, k, v, its output and log-sum-exp, a gated activation
three buffers, the loss the whole softmax in fp32. Parameters are not counted, nor is anything above the first trained one.
"""

from dataclasses import dataclass

from cluster.cost.flow import Flow, Step
from cluster.cost.load import Load, Stretch
from cluster.cost.ops import (
    Activation,
    Attend,
    Cross,
    HeadNorm,
    Linear,
    Lookup,
    Loss,
    Module,
    Norm,
    Places,
    Repeated,
    Scale,
)
from cluster.cost.parts import Model

FP32, INT64 = 4, 8
BUFFERS = {"gelu": 1, "gelu_tanh": 1, "silu": 1, "quick_gelu": 2, "relu": 1}
"""What an activation keeps, of its input's size; a ReLU its output."""


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
    memo: dict[object, tuple[float, float]] = {}
    for one in model.flow:
        module, key = one.module, (id(one.steps), one.module.stream)
        if key not in memo:
            memo[key] = saved_by(one, load, model.tp, numbers), passing(one, load, model.tp, numbers)
        size, buffers = memo[key]
        by_part[one.part] = by_part.get(one.part, 0.0) + size
        if module.block and size:
            kept += load.positions(module.stream) * module.block * numbers.math
            largest = max(largest, size)
        else:
            kept += size
        spike = max(spike, buffers)
    shared = tables(model, load, numbers)
    for part, size in shared.items():
        by_part[part] = by_part.get(part, 0.0) + size
    return Activations(by_part, kept + largest + sum(shared.values()), spike)


def saved_by(one: Flow, load: Load, tp: int, numbers: Numbers) -> float:
    """Bytes that a module keeps."""
    return sum(_saved(step, one.module, load, tp, numbers) for step in one.steps if step.live or step.trained)


def _saved(step: Step, module: Module, load: Load, tp: int, numbers: Numbers) -> float:
    op, n = step.op, load.over(step.op, module.stream)
    if isinstance(op, Linear):
        rows = n / load.positions("views") if op.alike else n
        return rows * op.inputs / (tp if op.cut == "row" else 1) * numbers.math if op.first and op.kept else 0.0
    if isinstance(op, Norm | HeadNorm):
        return _norm(op, n, step, load, tp, numbers)
    if isinstance(op, Attend):
        return _attention(op, module, load, tp, numbers)
    if isinstance(op, Cross):
        return _cross(op, n, load, numbers)
    if isinstance(op, Activation):
        buffers = BUFFERS[op.kind] + 2 * op.gated - (op.gated and op.kind == "relu")
        return n * op.width / (tp if op.cut else 1) * numbers.math * buffers
    if isinstance(op, Scale):
        cast = 0 if numbers.weight == numbers.math else op.width * numbers.math
        return (n * op.width * numbers.math if step.trained else 0.0) + (cast if step.live else 0)
    if isinstance(op, Lookup):
        return n * (INT64 + (tp > 1)) if step.trained else 0.0
    if isinstance(op, Repeated):
        return n * op.looked_up if step.trained else 0.0
    if isinstance(op, Places):
        looked_up = (2 if load.resized and not op.nearest else 1) * INT64 * load.cells if step.trained else 0.0
        return looked_up + (load.cells + (load.views if op.token else 0)) * INT64
    if isinstance(op, Loss):
        vocabulary = op.vocabulary / tp
        return n * (op.width * numbers.math + vocabulary * FP32 + 2 * INT64 + 1 + FP32) + vocabulary
    return 0.0


def _norm(op: Norm | HeadNorm, n: float, step: Step, load: Load, tp: int, numbers: Numbers) -> float:
    """Its fp32 input, what it made of it (RMSNorm without a fused kernel), statistics, and a cast weight."""
    kind, kept = (op.kind, op.kept) if isinstance(op, Norm) else ("rms", "")
    rows = n * (op.heads / (tp if op.cut else 1) if isinstance(op, HeadNorm) else 1)
    layer = kind == "layer"
    inputs = rows
    if kept == "weight":
        once = op.on == "once" or numbers.math != FP32  # the cast to fp32 is of all views' queries
        inputs = 0.0 if numbers.weight == FP32 else rows / (1 if once else load.positions("views"))
    if kept == "math" and numbers.math == FP32:
        inputs = 0.0
    made = rows if step.trained and not layer and not numbers.fused_norm else 0.0
    if made and not step.live:  # the weight's gradient alone is wanted
        return made * op.width * FP32
    cast = 0 if numbers.weight == FP32 and kind != "rms_zero_centered" else op.width * FP32 * (2 if layer else 1)
    return (inputs + made) * op.width * FP32 + rows * FP32 * (2 if layer else 1) + cast


def _attention(op: Attend, module: Module, load: Load, tp: int, numbers: Numbers) -> float:
    stretch, heads = load.stretch(module.stream, op.windows), op.heads / (tp if op.cut else 1)
    wide = heads * op.head
    around = 3 * stretch.gathered
    if not stretch.padded:  # calls look at the whole of q, k and v, or at cast copies of their own parts
        whole = numbers.attention == numbers.math
        around = 3 * stretch.positions if whole else stretch.gathered + 2 * stretch.keys
    kept = (around + stretch.gathered) * wide * numbers.attention + stretch.gathered * heads * FP32
    turned = 4 * stretch.positions * op.head * numbers.math / 2 if op.rotated and numbers.math != FP32 else 0.0
    chosen = 2 * heads * INT64 if op.cut and op.kv_heads % tp else 0.0  # which KV heads serve this rank's
    return kept + turned + chosen + stretch.masks * numbers.attention + stretch.real * INT64


def _cross(op: Cross, n: float, load: Load, numbers: Numbers) -> float:
    """Queries, keys, values, output and log-sum-exp."""
    wide, views = op.heads * op.head, load.positions("views")
    keys = keys_of(op, load)
    queries = n / views if op.shared and numbers.attention == numbers.math else n
    kept = (queries + 2 * keys + n) * wide * numbers.attention + n * op.heads * FP32
    return kept + (0.0 if numbers.attention == numbers.math else n * wide * numbers.math)


def keys_of(op: Cross, load: Load) -> float:
    """Keys of all views together."""
    return (load.positions("outputs") if op.reads else 0.0) + op.own * load.positions("views")


def tables(model: Model, load: Load, numbers: Numbers) -> dict[str, float]:
    """What layers share, by part: angles of the rotation, places of segments, of windows, of visual and expert's tokens."""
    made: dict[str, float] = {"decoder": load.visual * INT64 * (2 if load.ordered else 1) + load.newlines * INT64}
    seen: set[tuple[str, str]] = set()
    for one in model.flow:
        for step in one.steps:
            kind = _shared(step)
            if kind and step.live and (one.part, kind) not in seen:
                seen.add((one.part, kind))
                made[one.part] = made.get(one.part, 0.0) + _table(one.module, kind, load)
            if not isinstance(step.op, Attend) or not step.op.rotated or not step.live or numbers.math != FP32:
                continue  # in another dtype each layer keeps its own cast of the angles
            if (one.part, "turned") not in seen:
                seen.add((one.part, "turned"))
                angles = load.stretch(one.module.stream).positions * step.op.head * FP32
                made[one.part] = made.get(one.part, 0.0) + angles
    return made


def _shared(step: Step) -> str:
    """The kind of table that an operation looks up in; empty: none."""
    if isinstance(step.op, Attend):
        return "windows" if step.op.windows else "segments"
    return "routes" if step.op.on == "inner" else ""


def _table(module: Module, kind: str, load: Load) -> float:
    if kind == "routes":
        return load.text.positions * INT64
    return _places(load.stretch(module.stream, kind == "windows")) + (load.cells * INT64 if kind == "windows" else 0.0)


def _places(stretch: Stretch) -> float:
    return (stretch.gathered + stretch.real) * INT64 if stretch.padded else 0.0


def passing(one: Flow, load: Load, tp: int, numbers: Numbers) -> float:
    """Largest buffers that live only while a module runs: an MLP's, or logits with their gradient."""
    largest, live = 0.0, any(step.back for step in one.steps)
    for step in one.steps:
        op, n = step.op, load.over(step.op, one.module.stream)
        if isinstance(op, Loss):
            # logits in the math dtype, in fp32, masked, and the softmax's gradient
            largest = max(largest, n * op.vocabulary / tp * (numbers.math + 3 * FP32))
        if isinstance(op, Activation):
            buffers = (4 if live else 2) * (2 if op.gated else 1)
            largest = max(largest, n * op.width / (tp if op.cut else 1) * numbers.math * buffers)
    return largest
