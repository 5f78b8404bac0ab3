"""Tasks to workers, results in order. A task whose worker died is done again by a new one, a few times."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from configs.errors import RunError
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.plan.rows import PlannedStep
from data_pipeline.stream.prefetch.process import Child, Gone
from data_pipeline.stream.prefetch.transport import to_batch

MODULE = "data_pipeline.stream.prefetch.worker"
TRIES = 3
START_SECONDS = 120.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A micro-step: the step that it is of, its number, and its rows (-1 for a dummy)."""

    planned: PlannedStep
    micro: int
    rows: tuple[int, ...]

    def __str__(self) -> str:
        return f"step {self.planned.step} micro-step {self.micro}"


class Worker(Protocol):
    """Makes one micro-step at a time."""

    def make(self, task: Task) -> Batch: ...

    def close(self) -> None: ...


class InProcess:
    """A worker that is a thread of this process."""

    def __init__(self, batch: Callable[[Task], Batch]):
        self.batch = batch

    def make(self, task: Task) -> Batch:
        return self.batch(task)

    def close(self) -> None: ...


class InChild:
    """A worker process. One that dies or hangs is replaced, and its task is done again.

    Args:
        recipe: plain values of the recipe.
        seconds: the deadline of a micro-step.
    """

    def __init__(self, number: int, recipe: dict[str, Any], seconds: float):
        self.number, self.recipe, self.seconds = number, recipe, seconds
        self.child = self._start()

    def _start(self) -> Child:
        child = Child(MODULE, f"reading worker {self.number}")
        try:
            child.ask({"recipe": self.recipe}, seconds=START_SECONDS)
        except Gone as error:
            raise RunError(f"{error} while it started: see its output above") from None
        return child

    def make(self, task: Task) -> Batch:
        for attempt in range(TRIES):
            try:
                rows = [row for row in task.rows if row >= 0]
                body = task.planned.part(rows).to_bytes()
                places = [rows.index(row) if row >= 0 else -1 for row in task.rows]
                header, _, descriptor = self.child.ask({"rows": places, "numbers": list(task.rows)}, body, self.seconds)
                assert descriptor is not None, "a batch came without its memory file"
                return to_batch(header, descriptor)
            except Gone as error:
                log.warning("%s in %s, attempt %d of %d: starting another", error, task, attempt + 1, TRIES)
                last = error
                self.child.close()
                self.child = self._start()
        raise RunError(f"{last} in {task}, {TRIES} times: look at the samples of this step with `looksay data stream`")

    def close(self) -> None:
        self.child.close()


@dataclass
class Pool:
    """Threads that feed workers. `submit` in order, `get` in the same order."""

    workers: list[Worker]
    _tasks: "queue.Queue[tuple[int, Task] | None]" = field(default_factory=queue.Queue)
    _done: dict[int, Batch | BaseException] = field(default_factory=dict)
    _ready: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False

    def __post_init__(self) -> None:
        self._submitted = self._taken = 0
        self._threads = [threading.Thread(target=self._run, args=(worker,), daemon=True) for worker in self.workers]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Task) -> None:
        self._tasks.put((self._submitted, task))
        self._submitted += 1

    def get(self) -> Batch:
        """The result of the oldest task that was not taken yet. Raises what its worker raised."""
        with self._ready:
            while self._taken not in self._done:
                self._ready.wait(1.0)
                if self._taken not in self._done and not any(thread.is_alive() for thread in self._threads):
                    raise RunError("the threads that read ahead ended without a word: run again")
            made = self._done.pop(self._taken)
        self._taken += 1
        if isinstance(made, BaseException):
            raise made
        return made

    def forget(self) -> None:
        """Drop tasks that were submitted and not taken; what is being made is waited for."""
        while True:
            try:
                number, _ = self._tasks.get_nowait() or (-1, None)
            except queue.Empty:
                break
            with self._ready:
                self._done[number] = RunError("dropped")
        with self._ready:
            while any(number not in self._done for number in range(self._taken, self._submitted)):
                self._ready.wait(1.0)
                if not any(thread.is_alive() for thread in self._threads):
                    break
            self._done.clear()
        self._taken = self._submitted

    def _run(self, worker: Worker) -> None:
        while True:
            item = self._tasks.get()
            if item is None:
                return
            number, task = item
            made: Batch | BaseException
            try:
                made = worker.make(task)
            except BaseException as error:  # handed to whoever asks for this micro-step
                made = error
            with self._ready:
                self._done[number] = made
                self._ready.notify_all()

    def close(self, seconds: float = 30.0) -> None:
        """End threads and workers."""
        if self._closed:
            return
        self._closed = True
        self._drain()
        for _ in self._threads:
            self._tasks.put(None)
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.1, end - time.monotonic()))
        for worker in self.workers:
            worker.close()

    def _drain(self) -> None:
        while not self._tasks.empty():
            try:
                self._tasks.get_nowait()
            except queue.Empty:
                return
