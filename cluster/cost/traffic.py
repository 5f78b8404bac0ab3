"""What a rank sends: every collective of a step with its payload, as the engine makes them (counted in tests).

Payloads are at the larger end: the whole buffer of an all-reduce, the gathered or not yet scattered one of the others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.cost.activations import Numbers
from cluster.cost.flow import Step
from cluster.cost.gathers import Gathers
from cluster.cost.load import Load
from cluster.cost.ops import HeadNorm, Linear, Lookup, Loss
from cluster.cost.parts import Model
from cluster.cost.states import group_sizes

FP32, FP64, INT64 = 4, 8, 8
Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "broadcast"]
COUNTS = 10
"""Sums that the trainer reduces after a step (pretrain/loss.py); beside them flags, and each rank's own seconds."""
FLAGS = 3


@dataclass(frozen=True)
class Message:
    """`calls` collectives of one kind with `payload` bytes together. `overlaps`: runs beside forward or backward."""

    what: str
    operation: Operation
    group: Literal["tp", "dp", "world"]
    payload: float
    calls: float
    overlaps: bool = False


def wire_bytes(operation: Operation, payload: float, ranks: int) -> float:
    """Bytes that each rank sends in a ring of `ranks` (Thakur et al. 2005); a broadcast passes through every rank."""
    share = (ranks - 1) / ranks
    return payload * (2 * share if operation == "all_reduce" else share)


def tensor_parallel(model: Model, load: Load, numbers: Numbers) -> list[Message]:
    """Collectives of one micro-step in the TP group."""
    if model.tp == 1:
        return []
    sums: dict[str, list[float]] = {}
    memo: dict[object, list[tuple[str, float]]] = {}
    for one in model.flow:
        key = (id(one.steps), one.module.stream)
        if key not in memo:
            memo[key] = [
                m for step in one.steps for m in _of_step(step, load.over(step.op, one.module.stream), numbers)
            ]
        for name, size in memo[key]:
            total = sums.setdefault(f"{one.module.name.split('.')[0]} {name}", [0.0, 0.0])
            total[0] += size
            total[1] += 1
    return [Message(name, "all_reduce", "tp", size, calls) for name, (size, calls) in sums.items()]


def _of_step(step: Step, n: float, numbers: Numbers) -> Iterator[tuple[str, float]]:
    op, live, trained = step.op, step.live, step.trained
    if isinstance(op, Linear):
        if op.cut == "row":
            yield "forward", n * op.outputs * numbers.math
        if op.cut in ("column", "partial") and live:
            yield "backward", n * op.inputs * numbers.math
        if op.cut == "partial" and trained:
            yield "backward", op.outputs * (op.inputs + op.bias) * numbers.weight
    if isinstance(op, HeadNorm) and trained:
        yield "backward", op.width * FP32
    if isinstance(op, Lookup):
        yield "forward", n * op.width * numbers.weight
    if isinstance(op, Loss):
        for _ in range(3):  # the largest logit, the target's, the sum of exponentials
            yield "forward", n * FP32
        if live:
            yield "backward", n * op.width * numbers.math


def data_parallel(
    model: Model, zero: int, dp: int, micro_steps: int, weight_bytes: int, gathered: Gathers | None
) -> list[Message]:
    """Collectives of one optimizer step in the DP group."""
    sizes = [(p.weight.local(model.tp), p.trained) for p in model.weights]
    trained = sum(size for size, does in sizes if does)
    if dp == 1:
        return []
    if zero == 3:
        assert gathered is not None
        padded = sum(-(-size // dp) * dp for size, does in sizes if does)
        groups = len(group_sizes(model.weights, dp, model.tp))
        made = [
            Message(
                "weights gathered",
                "all_gather",
                "dp",
                gathered.elements * weight_bytes * micro_steps,
                gathered.calls * micro_steps,
                True,
            ),
            Message("gradients", "reduce_scatter", "dp", padded * FP32 * micro_steps, micro_steps, True),
            Message("norms", "all_reduce", "dp", groups * FP64, groups),
        ]
        if gathered.persistent:
            made.append(Message("weights kept", "all_gather", "dp", gathered.persistent * weight_bytes, 1))
        return made
    often = micro_steps if zero == 2 else 1
    groups_padded = group_sizes(model.weights, dp, model.tp)
    whole = sum(groups_padded) if zero == 1 and weight_bytes < FP32 else trained
    made = [Message("gradients", "all_reduce", "dp", whole * FP32 * often, often, True)]
    if zero:
        made.append(
            Message("weights updated", "all_gather", "dp", sum(groups_padded) * weight_bytes, len(groups_padded))
        )
    return made


def control(zero: int, tp: int, dp: int, groups: int, weight_bytes: int) -> list[Message]:
    """Norms and flags of the engine, and the trainer's counts: small, but each waits for everybody."""
    low = weight_bytes < FP32
    in_dp = {0: (FP32, 1), 1: (0, 0) if low else (groups * FP32, groups), 3: (0, 0)}.get(zero)
    if in_dp is None:  # ZeRO 2: a norm for each group, and in bf16 a flag of overflow
        in_dp = (groups * FP32 + low, groups + low)
    in_tp = {0: (FP64 + FP32, 2), 1: (FP32, 1) if low else in_dp, 2: in_dp, 3: (groups * FP64, groups)}[zero]
    made: list[Message] = []
    if tp > 1:
        made.append(Message("norms", "all_reduce", "tp", *in_tp))
    if dp > 1 and in_dp[1]:
        made.append(Message("norms", "all_reduce", "dp", *in_dp))
    return made


def counts(world: int) -> list[Message]:
    """The trainer's sums of a step, over all ranks."""
    return [Message("counts", "all_reduce", "world", (COUNTS + FLAGS + world) * FP64, 1)] if world > 1 else []


def batches(load: Load, patch_bytes: float, channel_bytes: float, pixels: float, tp: int) -> list[Message]:
    """The reading rank's batch, sent to its TP group: ids, targets, weights, positions, pictures, and a header.

    Args:
        patch_bytes: of one patch's pixels. channel_bytes: of one output that is cached. pixels: of one cell (a CNN).
    """
    if tp == 1:
        return []
    per_position = 2 * INT64 + FP32 + 3 * INT64
    body = load.text.positions * per_position + load.visual * INT64 * (2 if load.ordered else 1)
    if load.pictures:
        body += load.cells * (patch_bytes + 2 * FP32 if patch_bytes else 0.0)
        body += load.outputs * channel_bytes + load.cells * pixels + load.views * (2 * FP32 + INT64)
    body += load.newlines * INT64 + load.samples * 3 * INT64
    return [Message("batch", "broadcast", "tp", body + 1000 + 120 * load.samples, 4)]


def sent(messages: Sequence[Message], sizes: dict[str, int]) -> float:
    """Bytes that one rank sends in all of them; `sizes` of the groups."""
    return sum(wire_bytes(m.operation, m.payload, sizes[m.group]) for m in messages)
