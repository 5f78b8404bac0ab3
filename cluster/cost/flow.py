"""Which operations a gradient flows through: nothing is kept or computed backward below the first trained one.

Pictures, the projector's queries, what their attention reads, and text are lines of their own: a gradient that text wants
(a newline, a trained layer) does not reach the encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.cost.ops import Cross, Linear, Lookup, Loss, Module, Norm, Op, Repeated

LINES = {
    "patches": "vision",
    "cells": "vision",
    "outputs": "vision",
    "views": "queries",
    "once": "queries",
    "newlines": "newlines",
}
"""Stream -> the line that it is part of; all others are text."""


@dataclass(frozen=True)
class Step:
    """An operation. `live`: a gradient is wanted of its input; `trained`: of its weights."""

    op: Op
    live: bool
    trained: bool

    @property
    def back(self) -> bool:
        """It has something to do in backward."""
        return self.trained or (self.live and not isinstance(self.op, Lookup | Repeated))


@dataclass(frozen=True)
class Flow:
    """A module with its operations. Alike modules share one `steps`."""

    module: Module
    steps: tuple[Step, ...]

    @property
    def part(self) -> str:
        """encoder, projector, decoder or loss."""
        return "loss" if self.module.stream == "labels" else self.module.name.split(".")[0]


def flow_of(modules: Sequence[Module], trained: Sequence[tuple[bool, ...]]) -> tuple[Flow, ...]:
    """The modules in the order in which they run; `trained`: for each of their operations, whether it has a trained weight."""
    live: dict[str, bool] = {}
    alike: dict[tuple[object, ...], tuple[tuple[Step, ...], dict[str, bool]]] = {}
    tied, out = False, []
    for module, trains in zip(modules, trained, strict=True):
        if module.name.startswith("decoder"):
            live["text"] = any(live.values())
            tied = tied or (isinstance(module.ops[0], Lookup) and trains[0])
        key = (id(module.ops), module.stream, trains, tuple(sorted(live.items())))
        if key not in alike:
            alike[key] = _through(module, trains, dict(live), tied)
        steps, after = alike[key]
        live = dict(after)
        out.append(Flow(module, steps))
    return tuple(out)


def _through(
    module: Module, trained: tuple[bool, ...], live: dict[str, bool], tied: bool
) -> tuple[tuple[Step, ...], dict[str, bool]]:
    """The operations of a module, and what is live behind it."""
    steps: list[Step] = []
    shared = False
    for op, trains in zip(module.ops, trained, strict=True):
        line = LINES.get(op.on or module.stream, "text")
        if isinstance(op, Loss):
            trains = trains or (op.name is None and tied)
        wanted = live.get(line, False)
        if isinstance(op, Linear):
            wanted = shared = wanted if op.first else shared
        if op.aside:  # features, normed or not, on their way to an attention
            wanted = wanted or live.get("normed", False) or (op.beside > 0 and live.get("queries", False))
            shared = wanted
            to = "normed" if isinstance(op, Norm) else "keys"
            live[to] = live.get(to, False) or wanted or trains
        elif isinstance(op, Cross):
            live.pop("normed", None)
            wanted = live[line] = wanted or live.pop("keys", False)
        else:
            live[line] = live.get(line, False) or wanted or trains
        steps.append(Step(op, wanted, trains))
    return tuple(steps), live
