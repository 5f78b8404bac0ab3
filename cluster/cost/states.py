"""Bytes of weights, gradients and optimizer that a rank holds, as DeepSpeed 0.19 lays them out under ZeRO 0 to 3.

Measured with the real engine (tests/cluster/test_cost_states.py): gradients at their largest, which is between the last
backward of a step and its update (or between two micro-steps, where these hold more).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from cluster.cost.parts import Placed

FP32 = 4
ALIGN = 2
"""ZeRO 1 and 2 pad each optimizer group to a multiple of this times DP (`nccl_start_alignment_factor`)."""
BUCKET = 500_000_000
"""Elements of DeepSpeed's gradient bucket (`reduce_bucket_size`, which our engine leaves at its default)."""


@dataclass(frozen=True)
class States:
    """Bytes on one rank. `bucket`: the buffer in which gradients travel."""

    weights: int
    gradients: int
    optimizer: int
    bucket: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.bucket


def states(
    weights: Sequence[Placed],
    zero: int,
    dp: int,
    tp: int,
    weight_bytes: int,
    *,
    rank: int = 0,
    micro_steps: int = 1,
    overlap: bool = False,
    buckets_whole: bool = True,
) -> States:
    """What DP rank `rank` holds.

    Args:
        weight_bytes: 2 (bf16 weights with an fp32 copy) or 4.
        micro_steps: of one optimizer step.
        overlap: collectives run beside backward (on GPUs): ZeRO 1 and 2 then have two buckets.
        buckets_whole: buckets count whole. A CPU touches only what it fills.
    """
    trained = sum(p.weight.local(tp) for p in weights if p.trained)
    bucket = BUCKET if buckets_whole else min(BUCKET, trained)
    if zero == 3:
        return _partitioned(weights, dp, tp, weight_bytes, bucket * FP32)
    frozen = sum(p.weight.local(tp) for p in weights if not p.trained)
    if zero == 0:
        tensors = sum(p.trained for p in weights)
        flat = min(bucket, trained) * FP32 if dp > 1 else 0
        return States((frozen + trained) * FP32, trained * FP32, trained * 2 * FP32 + tensors * FP32, flat)
    groups = _groups(weights, tp)
    padded = [ceil(sum(sizes) / (ALIGN * dp)) * ALIGN * dp for sizes in groups.values()]
    share = sum(padded) // dp
    held = (frozen + sum(padded)) * weight_bytes
    optimizer = share * 3 * FP32 + len(groups) * FP32
    if zero == 1 and weight_bytes < FP32:  # the whole model's gradients in fp32, and those of the last backward
        flat = min(bucket, trained) * FP32 if dp > 1 else 0
        return States(held, sum(padded) * FP32 + trained * weight_bytes, optimizer, flat)
    gradients = share * FP32
    if weight_bytes == FP32 and micro_steps > 1:  # between micro-steps: all (1), or of whole tensors (2)
        gradients = max(gradients, FP32 * (trained if zero == 1 else _touched(groups, padded, dp, rank)))
    return States(held, gradients, optimizer, bucket * weight_bytes * (2 if overlap else 1))


def _partitioned(weights: Sequence[Placed], dp: int, tp: int, weight_bytes: int, bucket: int) -> States:
    """ZeRO-3: every tensor by itself, cut into DP equal pieces, the last one padded."""
    counts = Counter((p.weight.local(tp), p.trained) for p in weights)
    held = sum(ceil(size / dp) * count for (size, _), count in counts.items())
    share = sum(ceil(size / dp) * count for (size, trained), count in counts.items() if trained)
    groups = len(_groups(weights, tp))
    return States(held * weight_bytes, share * FP32, share * 3 * FP32 + groups * FP32, bucket)


def _groups(weights: Sequence[Placed], tp: int) -> dict[tuple[str, bool], list[int]]:
    """(pattern, decayed) -> sizes of its tensors on this TP rank: AdamW's groups."""
    groups: dict[tuple[str, bool], list[int]] = {}
    for placed in weights:
        if placed.pattern is not None:
            groups.setdefault((placed.pattern, placed.weight.decays), []).append(placed.weight.local(tp))
    return groups


def group_sizes(weights: Sequence[Placed], dp: int, tp: int) -> list[int]:
    """Padded elements of each optimizer group under ZeRO 1 and 2."""
    return [ceil(sum(sizes) / (ALIGN * dp)) * ALIGN * dp for sizes in _groups(weights, tp).values()]


def _touched(groups: dict[tuple[str, bool], list[int]], padded: list[int], dp: int, rank: int) -> int:
    """Elements of all tensors that reach into this rank's share of each group."""
    total = 0
    for sizes, whole in zip(groups.values(), padded, strict=True):
        share, start = whole // dp, 0
        for size in sizes:
            if start < (rank + 1) * share and start + size > rank * share:
                total += size
            start += size
    return total
