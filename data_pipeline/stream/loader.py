"""The loader of one reading rank: plan -> micro-steps of this rank -> workers -> batches, some steps ahead.

Which rows are ours follows from `dp_rank` and `dp_size` alone: micro-step m, rank r trains rows
(m * DP + r) * B ... + B - 1 of the step. Everything else is the same on every rank. Workers hold no state, so the stream
is the same for any number of them, and what was made ahead and not used is simply made again.
"""

import os
import queue
import threading
from collections.abc import Iterator
from typing import Any

from configs.errors import RunError
from configs.schema import TrainRecipe
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.making import Features
from data_pipeline.stream.plan.rows import PlannedStep
from data_pipeline.stream.prefetch.pool import InChild, InProcess, Pool, Task, Worker
from data_pipeline.stream.service.source import PlanHere, PlanSource
from data_pipeline.stream.tables import open_data, open_sources

PLANNED_APART = 1_000_000
"""Samples from which on the planner has a process of its own (`data.planner: auto`)."""
MOST_WORKERS = 4
LEAST_BAD = 10
"""So many bad samples never end a run."""
MICRO_STEP_SECONDS = 300.0
"""Beyond `data.read.retry_seconds`, a worker that has not finished a micro-step is taken for hung."""


class Loader:
    """Batches of every step for one data-parallel rank.

    Args:
        recipe: what is read, and how rows are packed.
        dp_rank, dp_size: place among the data-parallel ranks, plain integers.
        local_ranks: reading ranks on this node, which share its cores.
        features: where given, pictures are not decoded.
        plan: where the plan comes from; none: made here (`open_plan`).
        plan_log: file that each planned window's start state is appended to (rank 0's job).
        workers: processes that read ahead; none: the recipe's.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        *,
        dp_rank: int = 0,
        dp_size: int = 1,
        local_ranks: int = 1,
        features: Features | None = None,
        plan: PlanSource | None = None,
        plan_log: str | None = None,
        workers: int | None = None,
    ):
        self.recipe = recipe
        sources = open_sources(recipe)
        self.datasets, self.labels, self.chat = sources.datasets, sources.labels, sources.chat
        self.geometry, self.features = sources.geometry, features
        self.plan = plan or PlanHere(open_data(recipe, sources=sources, plan_log=plan_log, write_log=True).planner)
        self.rows_per_step, self.rows_per_rank = recipe.data.packing.rows_per_step, recipe.parallel.rows_per_rank
        self.dp_rank, self.dp_size = dp_rank, dp_size
        self.bad = self.seen = 0
        self.last_step = recipe.stage.steps - 1
        self._maker = sources.maker(recipe, features)
        wanted = recipe.data.workers if workers is None else workers
        self.workers = usual_workers(local_ranks, features is not None) if wanted is None else wanted
        if features is not None:
            self.workers = 0  # they lie in this process
        self._pool: Pool | None = None
        self._feeder: _Feeder | None = None
        self._next = -1

    @property
    def micro_steps(self) -> int:
        """Micro-steps of an optimizer step; the last may hold dummy rows."""
        return -(-self.rows_per_step // (self.dp_size * self.rows_per_rank))

    # ---- batches -------------------------------------------------------------------------------------------

    def build(self, step: int) -> list[Batch]:
        """The batches of a step, made now, in this thread."""
        batches = [self._make(task) for task in self._tasks(self.plan.step(step))]
        self._count(batches)
        return batches

    def step(self, step: int) -> list[Batch]:
        """The batches of a step. Steps asked for in order are ready or nearly so; any other is a seek.

        Raises:
            IndexError: the stage has no such step.
            UserError, RunError: what a worker met while it made the step; more bad samples than the recipe allows.
        """
        if not 0 <= step <= self.last_step:
            raise IndexError(f"step {step} is not one of the stage's {self.last_step + 1}")
        if self._feeder is None or self._next != step:
            self._seek(step)
        assert self._feeder is not None and self._pool is not None
        self._feeder.wait(step)
        try:
            batches = [self._pool.get() for _ in range(self.micro_steps)]
        except BaseException:
            self._halt()
            raise
        self._feeder.taken()
        self._next = step + 1
        self._count(batches)
        return batches

    def _tasks(self, planned: PlannedStep) -> Iterator[Task]:
        for micro in range(self.micro_steps):
            first = (micro * self.dp_size + self.dp_rank) * self.rows_per_rank
            numbers = range(first, first + self.rows_per_rank)
            yield Task(planned, micro, tuple(n if n < self.rows_per_step else -1 for n in numbers))

    def _make(self, task: Task) -> Batch:
        rows = [task.planned.row(number) if number >= 0 else None for number in task.rows]
        return self._maker.batch(rows, task.rows, task.planned.denominator)

    def _count(self, batches: list[Batch]) -> None:
        """Bad samples among those seen, in the order of the plan: the same on any number of workers."""
        limit = self.recipe.data.max_bad_samples
        for sample in (sample for batch in batches for row in batch.rows for sample in row.samples):
            self.seen += 1
            if "filler" not in sample:
                continue
            self.bad += 1
            if self.bad > max(LEAST_BAD, limit * self.seen):
                raise RunError(
                    f"{self.bad} of {self.seen} samples are unreadable (data.max_bad_samples {limit}), the last: "
                    f"{sample['filler']}; run `looksay data verify`"
                )

    # ---- ahead ---------------------------------------------------------------------------------------------

    def _seek(self, step: int) -> None:
        if self._feeder is not None:
            self._feeder.stop()
        if self._pool is None:
            self._pool = Pool(self._start_workers())
        self._pool.forget()
        self._feeder = _Feeder(self, self._pool, step)
        self._next = step

    def _start_workers(self) -> list[Worker]:
        if not self.workers:
            return [InProcess(self._make)]
        recipe = self.recipe.model_dump(mode="json")
        seconds = self.recipe.data.read.retry_seconds + MICRO_STEP_SECONDS
        return [InChild(number, recipe, seconds) for number in range(self.workers)]

    def _halt(self) -> None:
        if self._feeder is not None:
            self._feeder.stop()
            self._feeder = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def close(self) -> None:
        """End workers and threads, and the planner's process if it is ours."""
        self._halt()
        self.plan.close()

    # ---- state ---------------------------------------------------------------------------------------------

    def state_dict(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps so that the stream goes on at `step`."""
        return {"step": step, "plan": self.plan.state(step)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state.

        Raises:
            UserError: it belongs to another plan; says what differs.
        """
        self._halt()
        self.plan.restore(state["plan"])

    def ids_hash(self, step: int) -> str:
        """SHA-256 of the step's (epoch, source, shard, key) in plan order: the same at any DP."""
        return self.plan.ids_hash(step)


class _Feeder:
    """The thread that plans steps and hands their tasks out, at most `data.ahead` steps before they are taken."""

    def __init__(self, loader: Loader, pool: Pool, step: int):
        self._loader, self._pool = loader, pool
        self._room = threading.Semaphore(loader.recipe.data.ahead)
        self._fed: queue.Queue[tuple[int, BaseException | None]] = queue.Queue()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(step,), daemon=True)
        self._thread.start()

    def _run(self, step: int) -> None:
        while step <= self._loader.last_step and not self._stopped.is_set():
            if not self._room.acquire(timeout=0.2):
                continue
            try:
                for task in self._loader._tasks(self._loader.plan.step(step)):
                    self._pool.submit(task)
            except BaseException as error:  # handed to whoever asks for this step
                self._fed.put((step, error))
                return
            self._fed.put((step, None))
            step += 1

    def wait(self, step: int) -> None:
        """Until the step is planned and handed out. Raises what planning it raised."""
        while True:
            alive = self._thread.is_alive()
            try:
                fed, error = self._fed.get(timeout=1.0)
            except queue.Empty:
                if not alive:
                    raise RunError("the loader's thread ended without a word: run again") from None
                continue
            if error is not None:
                raise error
            assert fed == step, "steps come in order"
            return

    def taken(self) -> None:
        self._room.release()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=60)


def usual_workers(local_ranks: int, cached: bool) -> int:
    """Processes that read ahead for one rank: what the cores of a node leave for each, at most MOST_WORKERS."""
    cores = len(os.sched_getaffinity(0))
    return 0 if cached else min(MOST_WORKERS, max(0, cores // local_ranks - 1))


def plans_apart(recipe: TrainRecipe) -> bool:
    """Whether planning gets a process of its own on each node."""
    if recipe.data.planner != "auto":
        return recipe.data.planner == "process"
    return sum(len(dataset) for dataset in open_sources(recipe).datasets) >= PLANNED_APART
