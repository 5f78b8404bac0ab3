"""ZeRO-3's gathering, simulated: which parameters DeepSpeed's coordinator fetches, keeps and drops in one micro-step.

The rules are those of `PartitionedParameterCoordinator` (DeepSpeed 0.19) once its trace is complete: a module's missing
parameters are gathered, then more of the trace up to the prefetch bucket; after use a parameter is dropped unless the
next REUSE parameters of the trace use it again. So a model of less than REUSE elements is gathered once a micro-step
and stays whole until its backward, a large one is gathered twice.
"""

from dataclasses import dataclass
from math import ceil

from cluster.cost.ops import Lookup, Loss
from cluster.cost.parts import Model

PREFETCH = 50_000_000
REUSE = 1_000_000_000
LIVE = 1_000_000_000
"""Elements: the engine's prefetch bucket, DeepSpeed's `stage3_max_reuse_distance` and `stage3_max_live_parameters`."""


@dataclass(frozen=True)
class Gathers:
    """Elements in one micro-step: gathered (padding to DP included), and the most held whole at once."""

    elements: int
    peak: int
    between: int
    """Held whole between forward and backward."""
    calls: int
    persistent: int
    """Elements that are gathered once a step, and whole until its end: small ones (`persistence_threshold`), and those
    that leave their module as they are. Padding to DP included."""


Parameter = tuple[int, int]
"""(number in the trace's own count, elements)."""


def gathers(model: Model, dp: int, threshold: int = 0) -> Gathers:
    """What one micro-step gathers on a rank, after the first two."""
    forward, backward, dangling = _trace(model)
    trace = [*forward, *backward]
    ends, uses = _uses(trace)
    kept = {p for step in trace for p in step if p[1] <= threshold or p[0] in dangling}
    held = set(kept)
    available = most = sum(size for _, size in kept)
    elements = calls = queue = between = 0
    order = [(step, p) for step, step_parameters in enumerate(trace) for p in step_parameters]
    fetched: dict[Parameter, int] = {}
    for step, wanted in enumerate(trace):
        missing = [p for p in wanted if p not in held]
        new = set(wanted) - {p for p in wanted if fetched.get(p, -1) >= step}
        seen: set[Parameter] = set()
        while queue < len(order) and len(seen) < len(new):
            at, p = order[queue]
            fetched[p] = at
            seen.add(p)
            queue += 1
        room, ahead, size = min(LIVE - available - sum(s for _, s in missing), PREFETCH), [], 0
        while queue < len(order) and size < room:
            at, p = order[queue]
            queue += 1
            fetched[p] = max(fetched.get(p, -1), at)
            if p not in held and p not in missing and p not in ahead:
                ahead.append(p)
                size += p[1]
        for batch in (missing, ahead):
            calls += bool(batch)
            elements += sum(ceil(s / dp) * dp for _, s in batch)
            available += sum(s for _, s in batch)
            held.update(batch)
        most = max(most, available)
        for p in wanted:
            following = next((u for u in uses[p] if u > step), None)
            soon = following is not None and ends[following] - ends[step + 1] < REUSE
            if p not in kept and p in held and not soon and fetched.get(p, -1) <= step + 1:
                held.discard(p)
                available -= p[1]
        between = available if step == len(forward) - 1 else between
    return Gathers(elements, most, between, calls, sum(ceil(size / dp) * dp for _, size in kept))


def _uses(trace: list[list[Parameter]]) -> tuple[list[int], dict[Parameter, list[int]]]:
    """Elements of the trace before each step, and the steps that use each parameter."""
    ends: list[int] = [0]
    uses: dict[Parameter, list[int]] = {}
    for step, wanted in enumerate(trace):
        ends.append(ends[-1] + sum(size for _, size in wanted))
        for p in wanted:
            uses.setdefault(p, []).append(step)
    return ends, uses


def _trace(model: Model) -> tuple[list[list[Parameter]], list[list[Parameter]], set[int]]:
    """Parameters of each module call: forward, and backward where a gradient flows; numbers of those that are kept."""
    calls: list[tuple[list[Parameter], bool]] = []
    number, embedding = 0, None
    dangling: set[int] = set()
    for one, held in zip(model.flow, model.placed, strict=True):
        groups: list[list[Parameter]] = []
        for step, own in zip(one.steps, held, strict=True):
            groups.append([(number + k, placed.weight.local(model.tp)) for k, placed in enumerate(own)])
            dangling |= set(range(number, number + len(own))) if step.op.dangling else set()
            number += len(own)
            if isinstance(step.op, Loss) and step.op.name is None and embedding is not None:
                groups[-1] = embedding
            if isinstance(step.op, Lookup):
                embedding = groups[-1]
        backward = [step.back for step in one.steps]
        if one.module.leaf:
            groups, backward = [[p for group in groups for p in group]], [any(backward)]
        calls += [(group, back) for group, back in zip(groups, backward, strict=True) if group]
    return [group for group, _ in calls], [group for group, back in reversed(calls) if back], dangling
