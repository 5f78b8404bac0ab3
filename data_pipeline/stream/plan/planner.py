"""Lengths -> windows of optimizer steps: independent of DP, TP, nodes and workers. Any known window is a seek.

order      epochs joined end to end, each a seeded permutation of chunks, samples shuffled among some chunks
window     draws until carried + drawn tokens suffice, then emits exactly R = rows_per_step * window_steps rows
carry      what did not fit: bounded, and aged: after `max_carry_windows` it is packed before anything new
steps      rows grouped so that the ranks of a micro-step carry alike, then micro-steps and steps shuffled
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from configs.errors import UserError
from data_pipeline.stream.plan.draw import Lengths, Supply, draw
from data_pipeline.stream.plan.log import PlanLog
from data_pipeline.stream.plan.mixture import Mixture
from data_pipeline.stream.plan.order import Order
from data_pipeline.stream.plan.rows import Drawn, PlannedStep
from data_pipeline.stream.plan.state import WindowStart
from data_pipeline.stream.plan.window import PlanSettings, Window, carried, pack_window

KEPT_STARTS = 4096
"""Starts of windows that a planner without a log remembers; of older ones every other goes."""

Weights = Callable[[int], Sequence[float]]
"""Optimizer step -> weight of each source."""


class Planner:
    """Plans steps of rows.

    Args:
        tables: one for each source.
        weights: weight of each source by step; read at a window's first step.
        mixture: what weights are shares of, `samples` or `tokens`.
        identity: what else the plan depends on, by name.
        log: file that every window's start is kept in, and (`write`) appended to.
        progress: told (window, wanted window) while a step that was never planned is reached.
    """

    def __init__(
        self,
        tables: Sequence[Lengths],
        weights: Weights,
        settings: PlanSettings,
        seed: int,
        *,
        mixture: str = "samples",
        identity: dict[str, str] | None = None,
        log: str | None = None,
        write: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ):
        self.tables, self.weights, self.settings, self.seed = list(tables), weights, settings, seed
        self.mixture, self.progress = mixture, progress
        self.identity = {"seed": str(seed), "packing": repr(settings), "mixture": mixture, **(identity or {})}
        for table in self.tables:
            self.identity |= {f"{table.label}: {name}": value for name, value in table.identity.items()}
        self.fingerprint = _hash(self.identity)
        self._orders = [Order(table.starts, settings.chunk, seed, n) for n, table in enumerate(self.tables)]
        self._log = PlanLog(log, self.fingerprint, write=write) if log else None
        self._starts: dict[int, WindowStart] = {0: WindowStart.first(len(self.tables))}
        self._supplies: list[Supply] | None = None
        self._windows: dict[int, Window] = {}

    # ---- steps ---------------------------------------------------------------------------------------------

    def window_of(self, step: int) -> int:
        return step // self.settings.window_steps

    def step(self, step: int) -> PlannedStep:
        """The plan of optimizer step `step` (from 0)."""
        return self.window(self.window_of(step)).step(step)

    def window(self, number: int) -> Window:
        """A window, planned now unless it is one of the last two.

        Raises:
            UserError: a source has nothing that can be drawn.
        """
        if number not in self._windows:
            first, start = self._nearest(number)
            for current in range(first, number + 1):
                if self.progress and number - first > 1:
                    self.progress(current, number)
                if self._log is not None:
                    self._log.append(current, start.to_json())
                window, start = self._plan(current, start)
                self._windows = {n: w for n, w in self._windows.items() if n == current - 1} | {current: window}
                self._remember(current + 1, start)
        return self._windows[number]

    def start_of(self, window: int) -> WindowStart:
        """The state before a window; plans what comes before it where that is not known."""
        first, start = self._nearest(window)
        if first < window:
            self.window(window - 1)
            start = self._starts[window]
        return start

    def _nearest(self, window: int) -> tuple[int, WindowStart]:
        known = max(number for number in self._starts if number <= window)
        if known < window and self._log is not None:
            found = self._log.nearest(window)
            if found is not None and found[0] > known:
                return found[0], WindowStart.from_json(found[1])
        return known, self._starts[known]

    def _remember(self, window: int, start: WindowStart) -> None:
        self._starts[window] = start
        if len(self._starts) > KEPT_STARTS:
            old = sorted(self._starts)[1 : KEPT_STARTS // 2]
            for number in old[::2] if self._log is None else old:
                del self._starts[number]

    def _plan(self, number: int, start: WindowStart) -> tuple[Window, WindowStart]:
        settings, weights = self.settings, self.weights(number * self.settings.window_steps)
        after = self.weights((number + 1) * settings.window_steps)
        mixture = Mixture(weights, start.credit, self.mixture, start.longest, following=after)
        supplies = self._supplies
        if supplies is None or tuple(supply.cursor for supply in supplies) != start.cursors:
            parts = zip(self.tables, self._orders, start.cursors, strict=True)
            supplies = [Supply(table, order, cursor) for table, order, cursor in parts]
        self._supplies = None  # half drawn, should this fail
        waiting, age = carried(start.carry, self.tables)
        have = sum(int(part.tokens.sum()) for part in waiting)
        fresh = draw(supplies, mixture, settings.target - have)
        pool = Drawn.joined([*waiting, *fresh])
        ages = np.concatenate([age, np.zeros(len(pool) - len(age), np.int32)]).astype(np.int32)
        window, carry = pack_window(number, pool, ages, settings, self._rng(number))
        self._supplies = supplies
        cursors = tuple(supply.cursor for supply in supplies)
        return window, WindowStart(cursors, mixture.credit, carry, mixture.longest)

    def _rng(self, window: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed, (1 << 40) + window]))

    # ---- what others keep of it ----------------------------------------------------------------------------

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps so that planning goes on at `step`: the start of its window."""
        window = self.window_of(step)
        return {"identity": self.identity, "window": window, **self.start_of(window).to_json()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state.

        Raises:
            UserError: it belongs to another plan, or it is damaged; says what differs.
        """
        theirs = dict(state["identity"])
        if theirs != self.identity:
            raise UserError(_difference(theirs, self.identity))
        try:
            start = WindowStart.from_json(state)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the checkpoint's place in the plan is damaged ({error}): take an older checkpoint"
            ) from None
        self._remember(int(state["window"]), start)

    def ids_hash(self, step: int) -> str:
        """SHA-256 of the step's (epoch, source, shard, key) in plan order: the same at any DP."""
        samples = self.step(step).samples
        sha = hashlib.sha256()
        names = [table.label for table in self.tables]
        rows = zip(
            samples.epoch.tolist(), samples.source.tolist(), samples.shard.tolist(), samples.key.tolist(), strict=True
        )
        for epoch, source, shard, key in rows:
            sha.update(f"{epoch}\t{names[source]}\t{self.tables[source].shard_name(shard)}\t{key.decode()}\n".encode())
        return sha.hexdigest()


def _hash(identity: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def _difference(theirs: dict[str, str], ours: dict[str, str]) -> str:
    names = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    shown = "; ".join(
        f"{name}: was {theirs.get(name, 'not there')}, is {ours.get(name, 'not there')}" for name in names
    )
    return (
        f"the data, its layout or the packing changed since the checkpoint was written ({shown}): "
        "restore them, or use start_from for a new run"
    )
