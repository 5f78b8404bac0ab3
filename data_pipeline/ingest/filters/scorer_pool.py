"""One scorer as a pool of Ray actors: batches from any task on any node -> answers, in the batches' order.

Actors are made by the driver and end with it. A task gets their handles; Ray starts an actor that died again, on
another node where its own is lost, and asks it its batch again.
"""

import contextlib
import faulthandler
import os
import zlib
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from configs.errors import RunError, UserError
from configs.ingest import ScorerConfig
from data_pipeline.ingest.filters.predicates import said
from data_pipeline.ingest.filters.scorer_model import Answer, Batch, Model

IN_FLIGHT = 2
"""Batches of one task with the pool: one is scored while the next travels (32 pictures of 256 px are 6 MB)."""
DEATHS = 3
"""Times that a batch is asked again when its actor died."""
PATIENCE = 10
"""Times `seconds` that a task waits for a batch behind those of others."""


class Failed(NamedTuple):
    """A model failed as a whole, in the process born as `birth`."""

    birth: bytes
    words: str


class Actor:
    """A Model with a watchdog: a batch beyond its time ends the process, even one stuck in native code."""

    def __init__(self, config: ScorerConfig):
        self.model, self.birth = Model(config), os.urandom(8)

    def ready(self) -> None:
        with self._watched():
            self.model.load()

    def score(self, pictures: list[list[np.ndarray]], texts: list[str], doubted: bytes = b"") -> list[Answer] | Failed:
        """Answers for a batch. The process born as `doubted` ends instead: Ray starts another and asks it."""
        if doubted == self.birth:
            os._exit(1)
        with self._watched():
            try:
                return self.model.score(pictures, texts)
            except RunError as error:
                return Failed(self.birth, str(error))

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        faulthandler.dump_traceback_later(self.model.config.seconds, exit=True, file=2)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


class Pool:
    """The actors of one scorer.

    Raises:
        UserError: an actor finds no place, or its class is not there.
    """

    def __init__(self, config: ScorerConfig):
        import ray

        self.config, self.label = config, f"filters.scorers {config.name}"
        made = ray.remote(Actor).options(
            num_cpus=config.cpus,
            num_gpus=config.gpus,
            max_restarts=-1,  # batches bound how often: a batch that kills DEATHS + 1 times ends its unit
            max_task_retries=DEATHS,
            scheduling_strategy="SPREAD",
        )
        self.actors = [made.remote(config) for _ in range(config.workers)]
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        import ray

        asked = [actor.ready.remote() for actor in self.actors]
        done, late = ray.wait(asked, num_returns=len(asked), timeout=self.config.seconds)
        for ref in done:
            self._get(ref, "loading its model")
        if late:
            raise UserError(
                f"{self.label}: {len(late)} of {len(asked)} workers are not ready after {self.config.seconds:g} s "
                f"(each asks for {self.config.cpus:g} processors and {self.config.gpus:g} GPUs): ask for less, or "
                "raise its seconds"
            )
        held, there = self.config.cpus * self.config.workers, ray.cluster_resources().get("CPU", 0)
        if held >= there and len(ray.nodes()) == 1:
            raise UserError(
                f"{self.label}: its workers hold {held:g} of {there:g} processors, none is left for the build: "
                "lower its workers or cpus"
            )

    def answers(self, batches: Iterator[Batch]) -> Iterator[list[Answer]]:
        """Answers to each batch, in order, with IN_FLIGHT batches away at a time."""
        flying: deque[tuple[Any, Batch, int]] = deque()
        for number, batch in enumerate(batches):
            # Tasks begin at different actors, so that a pool is used although each has few batches.
            turn = zlib.crc32(batch[2].encode()) + number
            flying.append((self._send(batch, turn), batch, turn))
            if len(flying) >= IN_FLIGHT:
                yield self._answer(*flying.popleft())
        while flying:
            yield self._answer(*flying.popleft())

    def _send(self, batch: Batch, turn: int, doubted: bytes = b"") -> Any:
        return self.actors[turn % len(self.actors)].score.remote(batch[0], batch[1], doubted)

    def _answer(self, ref: Any, batch: Batch, turn: int) -> list[Answer]:
        """One batch's answers. A model that fails as a whole (a GPU in trouble) is started anew once."""
        what = f"the batch of {len(batch[1])} samples from {batch[2]} on"
        got = self._get(ref, what)
        if isinstance(got, Failed):
            got = self._get(self._send(batch, turn, got.birth), what)
        if isinstance(got, Failed):
            raise RunError(got.words)
        return got

    def _get(self, ref: Any, what: str) -> Any:
        """What an actor returned; its sentences to a person without Ray's traceback around them."""
        import ray

        seconds = self.config.seconds
        try:
            return ray.get(ref, timeout=seconds * PATIENCE)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError | RunError):
                raise error.cause from None
            raise RunError(f"{self.label} failed at {what}: {said(error.cause)}") from error
        except ray.exceptions.GetTimeoutError as error:
            raise RunError(
                f"{self.label}: no answer to {what} in {seconds * PATIENCE:g} s: ask for more workers"
            ) from error
        except ray.exceptions.RayError as error:
            raise RunError(
                f"{self.label}: a worker died {DEATHS + 1} times at {what} (a crash, too little memory, or more than "
                f"{seconds:g} s): lower its batch, or raise its seconds"
            ) from error

    def close(self) -> None:
        import ray

        for actor in self.actors:
            ray.kill(actor)
