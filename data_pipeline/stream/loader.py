"""The loader of one data-parallel rank: plan -> read -> collate, one step ahead in a thread.

Which rows are ours follows from `dp_rank` and `dp_size` alone: micro-step m, rank r trains rows
(m * DP + r) * B ... + B - 1 of the step. Everything else is the same on every rank.
"""

import hashlib
import json
import queue
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from configs.errors import RunError
from configs.schema import TrainRecipe
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.chat import Encoded
from data_pipeline.stream.collate import Ready, collate
from data_pipeline.stream.images import decode
from data_pipeline.stream.layout import grid_of
from data_pipeline.stream.plan.planner import Draw, PlannedRow, PlannedStep
from data_pipeline.stream.read.dataset import BadSample
from data_pipeline.stream.tables import open_data

AHEAD = 2
"""Steps prepared before they are asked for: bounded memory."""


class Features(Protocol):
    """Cached encoder output: a list of [tokens, C] for the pictures of a sample."""

    def get(self, source: int, index: int) -> list[np.ndarray]: ...


class Loader:
    """Batches of every step for one data-parallel rank.

    Args:
        recipe: what is read, and how rows are packed.
        dp_rank, dp_size: place among the data-parallel ranks, plain integers.
        features: where given, pictures are not decoded.
        plan_log: file that each planned window's start state is appended to (rank 0's job).
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        *,
        dp_rank: int = 0,
        dp_size: int = 1,
        features: Features | None = None,
        plan_log: str | None = None,
    ):
        data = open_data(recipe)
        self.datasets, self.labels, self.chat, self.planner = data.datasets, data.labels, data.chat, data.planner
        self.geometry, self.cnn, self.features = data.geometry, data.cnn, features
        self.length, self.rows_per_step = recipe.data.packing.length, recipe.data.packing.rows_per_step
        self.rows_per_rank = recipe.parallel.rows_per_rank
        self.dp_rank, self.dp_size = dp_rank, dp_size
        self.max_bad, self.bad, self.seen = recipe.data.max_bad_samples, 0, 0
        self.last_step = recipe.stage.steps - 1
        self._plan_log = Path(plan_log) if plan_log else None
        self._logged = self._read_plan_log()
        self._queue: queue.Queue[tuple[int, Any]] = queue.Queue(AHEAD)
        self._thread: threading.Thread | None = None
        self._next = -1
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._hashes: dict[int, str] = {}
        self._conversations: dict[tuple[int, int], Any] = {}

    @property
    def micro_steps(self) -> int:
        """Micro-steps of an optimizer step; the last may hold dummy rows."""
        return -(-self.rows_per_step // (self.dp_size * self.rows_per_rank))

    # ---- building ------------------------------------------------------------------------------------------

    def build(self, step: int) -> list[Batch]:
        """The batches of a step, made now."""
        with self._lock:
            planned = self.planner.step(step)
            self._log_window(self.planner.window_of(step))
            self._hashes = {n: h for n, h in self._hashes.items() if n > step - 4 * AHEAD}
            self._hashes[step] = self._hash(planned)
        out = []
        for micro in range(self.micro_steps):
            first = (micro * self.dp_size + self.dp_rank) * self.rows_per_rank
            numbers = range(first, first + self.rows_per_rank)
            rows = [self._row(planned.rows[n]) if n < self.rows_per_step else [] for n in numbers]
            names = [n if n < self.rows_per_step else -1 for n in numbers]
            out.append(
                collate(
                    rows,
                    self.length,
                    self.geometry,
                    self.chat.pad_id,
                    cnn=self.cnn,
                    cached=self.features is not None,
                    denominator=planned.denominator,
                    numbers=names,
                )
            )
        return out

    def _row(self, row: PlannedRow) -> list[Ready]:
        return [self._sample(draw) for draw in row.samples]

    def _sample(self, draw: Draw) -> Ready:
        source, epoch, index = draw
        dataset = self.datasets[source]
        info = {
            "source": self.labels[source],
            "epoch": epoch,
            "shard": dataset.shard_of(index),
            "key": dataset.keys[index],
        }
        sizes = dataset.sizes(index)
        self.seen += 1
        try:
            if self.features is not None:
                encoded = self._conversations.get((source, index))
                if encoded is None:
                    encoded = self.chat.encode(dataset.conversation(index), len(sizes))
                    self._conversations[source, index] = encoded
                return Ready(encoded, sizes, features=self.features.get(source, index), info=info)
            stored = dataset.read(index)
            images = [decode(data) for data in stored.images]
            return Ready(self.chat.encode(stored.conversation, len(sizes)), sizes, images=images, info=info)
        except (BadSample, ValueError) as error:
            return self._filler(draw, info, error)

    def _filler(self, draw: Draw, info: dict[str, Any], error: Exception) -> Ready:
        """A sample whose bytes are wrong: counted and named, of the planned shape, without loss, on any topology."""
        self.bad += 1
        if self.bad > max(10.0, self.max_bad * self.seen):
            raise RunError(
                f"{self.bad} of {self.seen} samples are unreadable (data.max_bad_samples {self.max_bad}), the last: {error}; "
                "run `looksay data verify`"
            )
        source, _, index = draw
        table, sizes = self.planner.tables[source], self.datasets[source].sizes(index)
        visual = int(table.patches[index]) // self.geometry.merge**2
        text = int(table.tokens[index]) - visual
        ids = np.full(text + len(sizes), self.chat.pad_id, np.int64)
        slots = np.arange(len(sizes), dtype=np.int64)
        ids[slots] = self.chat.image_id
        encoded = Encoded(ids, np.zeros(len(ids), bool), slots)
        info = {**info, "filler": str(error)}
        grids = [grid_of(w, h, self.geometry) for w, h in sizes]
        if self.features is not None:
            features = self.features.get(source, index)
            return Ready(encoded, sizes, features=[np.zeros_like(f) for f in features], info=info, learn=False)
        blank = [np.zeros((r * self.geometry.cell, c * self.geometry.cell, 3), np.uint8) for r, c in grids]
        return Ready(encoded, sizes, images=blank, info=info, learn=False)

    # ---- one step ahead ------------------------------------------------------------------------------------

    def step(self, step: int) -> list[Batch]:
        """The batches of a step. Steps asked for in order are ready or nearly so; any other is a seek.

        Raises:
            IndexError: the stage has no such step.
            BaseException: whatever the thread met while it made the step.
        """
        if not 0 <= step <= self.last_step:
            raise IndexError(f"step {step} is not one of the stage's {self.last_step + 1}")
        if self._thread is None or self._next != step:
            self._restart(step)
        number, made = self._take()
        if isinstance(made, BaseException):
            self._thread = None
            raise made
        assert number == step
        self._next = step + 1
        return made

    def _take(self) -> tuple[int, Any]:
        """The next step that the thread made; never waits for a thread that is gone."""
        while True:
            alive = self._thread is not None and self._thread.is_alive()
            try:
                return self._queue.get(timeout=1.0)
            except queue.Empty:
                if not alive:
                    raise RunError("the loader's thread ended without a word: run again") from None

    def _restart(self, step: int) -> None:
        self._halt()
        self._next = step
        self._queue = queue.Queue(AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._produce, args=(step, self._queue, self._stop), daemon=True)
        self._thread.start()

    def _produce(self, step: int, out: "queue.Queue[tuple[int, Any]]", stop: threading.Event) -> None:
        while not stop.is_set() and step <= self.last_step:
            try:
                made: Any = self.build(step)
            except BaseException as error:  # handed to the trainer, which raises it
                made = error
            while not stop.is_set():
                try:
                    out.put((step, made), timeout=0.2)
                    break
                except queue.Full:
                    continue
            if isinstance(made, BaseException):
                return
            step += 1

    def _halt(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
            self._thread = None

    def close(self) -> None:
        self._halt()

    # ---- state ---------------------------------------------------------------------------------------------

    def state_dict(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps so that the stream goes on at `step`."""
        with self._lock:
            return {"step": step, "plan": self.planner.state(step)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._halt()
        self.planner.restore(state["plan"])

    def ids_hash(self, step: int) -> str:
        """SHA-256 of the step's (epoch, source, shard, key) in plan order: the same at any DP."""
        with self._lock:
            if step not in self._hashes:
                self._hashes[step] = self._hash(self.planner.step(step))
            return self._hashes[step]

    def _hash(self, planned: PlannedStep) -> str:
        sha = hashlib.sha256()
        for row in planned.rows:
            for source, epoch, index in row.samples:
                dataset = self.datasets[source]
                sha.update(
                    f"{epoch}\t{self.labels[source]}\t{dataset.shard_of(index)}\t{dataset.keys[index]}\n".encode()
                )
        return sha.hexdigest()

    def _read_plan_log(self) -> set[int]:
        if self._plan_log is None or not self._plan_log.exists():
            return set()
        seen = set()
        for line in self._plan_log.read_text().splitlines():
            try:
                seen.add(int(json.loads(line)["window"]))
            except (ValueError, KeyError):
                continue  # a torn last line of a killed run: its window is appended again
        return seen

    def _log_window(self, window: int) -> None:
        if self._plan_log is None or window in self._logged:
            return
        self._logged.add(window)
        line = json.dumps({**self.planner.window_state(window), "fingerprint": self.planner.fingerprint})
        with self._plan_log.open("ab+") as stream:
            if stream.tell():
                stream.seek(-1, 2)
                if stream.read(1) != b"\n":
                    line = "\n" + line  # the last line of a killed run is torn: this one starts anew
            stream.write(line.encode() + b"\n")
