"""Metadata -> rows -> optimizer steps. Pure numpy; needs no pixels; independent of DP, TP, nodes and workers.

    order      epochs joined end to end, each a seeded permutation of chunks, samples shuffled among some chunks
    window     draws until carried + drawn tokens suffice, then emits exactly R = rows_per_step * window_steps rows
    carry      what did not fit: bounded, and aged: after `max_carry_windows` it is packed before anything new
    steps      rows grouped so that the ranks of a micro-step carry alike, then micro-steps and steps shuffled

The state at a window's start (draws per source, carried samples) is small; from it the window is a pure function of
(seed, settings, lengths). Any step of a known window is a seek; an unknown one is reached by planning forward.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data_pipeline.stream.plan.mixture import draw_sources
from data_pipeline.stream.plan.packing import pack

SHUFFLE_CHUNKS = 16
"""Samples are shuffled among this many chunks that are read together."""
GROUP_ROWS = 8
"""Rows that balance `group` keeps alike: a constant, so that the plan does not depend on the running DP."""

Draw = tuple[int, int, int]
"""(source, epoch, index) of one sample."""


@dataclass(frozen=True)
class SampleTable:
    """Lengths of a source's samples, one entry each; `tokens` 0 marks a sample that is never drawn."""

    name: str
    fingerprint: str
    tokens: NDArray[np.int32]
    labels: NDArray[np.int32]
    patches: NDArray[np.int32]
    images: NDArray[np.int32]


@dataclass(frozen=True)
class PlanSettings:
    """Plain numbers out of a recipe."""

    length: int
    rows_per_step: int
    window_steps: int
    chunk: int
    max_images_per_row: int | None = None
    max_carry_windows: int = 2
    balance: str = "group"

    @property
    def window_rows(self) -> int:
        return self.rows_per_step * self.window_steps


@dataclass(frozen=True)
class PlannedRow:
    samples: tuple[Draw, ...]
    tokens: int
    patches: int
    attention: int
    """Sum of squared segment lengths."""


@dataclass(frozen=True)
class PlannedStep:
    rows: tuple[PlannedRow, ...]
    denominator: float
    """N: planned label tokens of all rows."""


class Planner:
    """Plans steps of rows.

    Args:
        tables: one for each source.
        weights: share of samples drawn from each.
    Raises:
        UserError: a source has no sample that fits a row.
    """

    def __init__(self, tables: Sequence[SampleTable], weights: Sequence[float], settings: PlanSettings, seed: int):
        self.tables, self.weights, self.settings, self.seed = list(tables), list(weights), settings, seed
        self.usable = [np.flatnonzero((t.tokens > 0) & (t.tokens <= settings.length)) for t in self.tables]
        self.unreadable = [int((t.tokens <= 0).sum()) for t in self.tables]
        self.too_long = [int((t.tokens > settings.length).sum()) for t in self.tables]
        for table, usable in zip(self.tables, self.usable, strict=True):
            if not len(usable):
                longest = int(table.tokens.max()) if len(table.tokens) else 0
                raise UserError(
                    f"source {table.name}: none of its {len(table.tokens)} samples fits a row of {settings.length} "
                    f"(the longest has {longest} tokens): raise data.packing.length or shrink the pictures"
                )
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}
        self._starts: dict[int, dict[str, Any]] = {0: {"drawn": [0] * len(self.tables), "carry": []}}
        self._window: tuple[int, list[PlannedStep]] | None = None
        self.fingerprint = self._identity()

    def _identity(self) -> str:
        sha = hashlib.sha256(json.dumps([self.seed, self.weights, repr(self.settings)]).encode())
        for table in self.tables:
            sha.update(table.fingerprint.encode())
            for column in (table.tokens, table.labels, table.patches, table.images):
                sha.update(np.ascontiguousarray(column, np.int32).tobytes())
        return sha.hexdigest()[:32]

    # ---- draw order ----------------------------------------------------------------------------------------

    def _order(self, source: int, epoch: int) -> NDArray[np.int64]:
        """Usable samples of one epoch in the order of drawing."""
        key = (source, epoch)
        if key not in self._orders:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, source * 1_000_003 + epoch]))
            usable, chunk = self.usable[source], self.settings.chunk
            chunks = [usable[i : i + chunk] for i in range(0, len(usable), chunk)]
            shuffled = [chunks[i] for i in rng.permutation(len(chunks))]
            groups = [np.concatenate(shuffled[i : i + SHUFFLE_CHUNKS]) for i in range(0, len(shuffled), SHUFFLE_CHUNKS)]
            for old in [k for k in self._orders if k[0] == source and k[1] < epoch - 1]:
                del self._orders[old]
            self._orders[key] = np.concatenate([rng.permutation(group) for group in groups])
        return self._orders[key]

    def _at(self, source: int, position: int) -> Draw:
        epoch, within = divmod(position, len(self.usable[source]))
        return source, epoch, int(self._order(source, epoch)[within])

    # ---- windows -------------------------------------------------------------------------------------------

    def _plan_window(self, number: int) -> tuple[list[PlannedStep], dict[str, Any]]:
        """Steps of a window whose start state is known, and the state of the next."""
        state, settings = self._starts[number], self.settings
        carried: list[tuple[Draw, int]] = [((s, e, i), age) for s, e, i, age in state["carry"]]
        drawn = list(state["drawn"])
        pool = [draw for draw, _ in carried]
        ages = dict(carried)
        total = sum(int(self.tables[s].tokens[i]) for s, _, i in pool)
        capacity = settings.window_rows * settings.length
        mean = self._mean_tokens()
        # A little more than fills the rows, so that the last rows find samples that fit; the rest is the carry.
        target = capacity + 2.0 * max(settings.length, mean * 8)
        while total < target:
            for source in draw_sources(self.weights, drawn, max(1, int((target - total) / mean))):
                draw = self._at(int(source), drawn[source])
                drawn[source] += 1
                pool.append(draw)
                total += int(self.tables[source].tokens[draw[2]])
        rows, left = self._pack(pool, ages)
        steps = self._into_steps(rows, number)
        carry = [(*draw, ages.get(draw, 0) + 1) for draw in left]
        return steps, {"drawn": drawn, "carry": carry}

    def _mean_tokens(self) -> float:
        share = np.asarray(self.weights, float) / float(np.sum(self.weights))
        means = [float(t.tokens[u].mean()) for t, u in zip(self.tables, self.usable, strict=True)]
        return float((share * means).sum())

    def _pack(self, pool: list[Draw], ages: dict[Draw, int]) -> tuple[list[PlannedRow], list[Draw]]:
        settings = self.settings
        lengths = np.array([self.tables[s].tokens[i] for s, _, i in pool], np.int64)
        images = np.array([self.tables[s].images[i] for s, _, i in pool], np.int64)
        first = np.array([ages.get(draw, 0) >= settings.max_carry_windows for draw in pool], bool)
        packed, left = pack(lengths, images, first, settings.window_rows, settings.length, settings.max_images_per_row)
        return [self._row([pool[i] for i in members]) for members in packed], [pool[i] for i in left]

    def _row(self, draws: list[Draw]) -> PlannedRow:
        tokens = [int(self.tables[s].tokens[i]) for s, _, i in draws]
        patches = sum(int(self.tables[s].patches[i]) for s, _, i in draws)
        return PlannedRow(tuple(draws), sum(tokens), patches, sum(t * t for t in tokens))

    def _into_steps(self, rows: list[PlannedRow], window: int) -> list[PlannedStep]:
        """Group rows that carry alike, shuffle the groups into steps: no step and no rank is a curriculum."""
        settings = self.settings
        rng = np.random.Generator(np.random.Philox(key=[self.seed, (1 << 40) + window]))
        order = rng.permutation(len(rows))
        size = GROUP_ROWS if settings.balance == "group" and settings.rows_per_step % GROUP_ROWS == 0 else 1
        if size > 1:
            load = np.array([rows[i].patches * 1e6 + rows[i].attention for i in order])
            grouped = order[np.argsort(load, kind="stable")].reshape(-1, size)
            grouped = np.stack([rng.permutation(group) for group in grouped])
            order = grouped[rng.permutation(len(grouped))].reshape(-1)
        steps = []
        for start in range(0, len(order), settings.rows_per_step):
            chosen = tuple(rows[i] for i in order[start : start + settings.rows_per_step])
            steps.append(PlannedStep(chosen, float(sum(self._labels(row) for row in chosen))))
        return steps

    def _labels(self, row: PlannedRow) -> int:
        return sum(int(self.tables[s].labels[i]) for s, _, i in row.samples)

    # ---- steps ---------------------------------------------------------------------------------------------

    def window_of(self, step: int) -> int:
        return step // self.settings.window_steps

    def step(self, step: int) -> PlannedStep:
        """The plan of optimizer step `step` (from 0)."""
        window = self.window_of(step)
        if self._window is None or self._window[0] != window:
            known = max(w for w in self._starts if w <= window)
            for number in range(known, window + 1):
                steps, after = self._plan_window(number)
                self._starts[number + 1] = after
                self._window = (number, steps)
        assert self._window is not None
        return self._window[1][step % self.settings.window_steps]

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps so that planning goes on at `step`: the start of its window."""
        window = self.window_of(step)
        if window not in self._starts:
            self.step(window * self.settings.window_steps - 1)
        return {"fingerprint": self.fingerprint, "window": window, **self._starts[window]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state.

        Raises:
            UserError: it belongs to another plan.
        """
        if state["fingerprint"] != self.fingerprint:
            raise UserError(
                "the data, its layout or the packing changed since the checkpoint was written "
                f"(plan {state['fingerprint'][:8]}, now {self.fingerprint[:8]}): restore them, or use start_from for a new run"
            )
        self._starts[int(state["window"])] = {"drawn": list(state["drawn"]), "carry": [list(c) for c in state["carry"]]}
        self._window = None

    def window_state(self, window: int) -> dict[str, Any]:
        """The line of plan.log for a window that was planned."""
        return {"window": window, **self._starts[window]}
