"""Running tasks, in this process or on Ray: a bounded number in flight, lost ones started again, stuck ones doubled.

Tasks commit what they make themselves, once, so that running one twice does no harm: a task whose worker or node is
lost starts again; one that stands long beyond the usual (a node behind a cut cable answers nothing, and Ray may take
minutes to notice) is started a second time on this node, and the first result counts.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from configs.errors import RunError, UserError
from configs.ingest import RayConfig

K = TypeVar("K")
Job = tuple[K, tuple[Any, ...]]
"""What a result is known by, and the arguments of the task."""

POLL_SECONDS = 1.0


class Runner(Protocol):
    """Runs `function(*arguments)` for each job; results come as they are done."""

    on_ray: bool

    def run(
        self, function: Callable[..., Any], jobs: Iterable[Job[K]], cpus: float = 1.0
    ) -> Iterator[tuple[K, Any]]: ...


class InProcess:
    """One after the other, here."""

    on_ray = False

    def run(self, function: Callable[..., Any], jobs: Iterable[Job[K]], cpus: float = 1.0) -> Iterator[tuple[K, Any]]:
        for key, arguments in jobs:
            yield key, function(*arguments)


@dataclass
class _Flight:
    """A task on its way: all starts of it that may still answer."""

    key: Any
    arguments: tuple[Any, ...]
    began: float
    starts: int = 0
    crashed: bool = False
    refs: list[Any] = field(default_factory=list)


class OnRay:
    """On the Ray that this process is connected to.

    Args:
        note: is told of lost, repeated and doubled tasks: (what, details).
        beat: is called while nothing lands, so that a standstill shows.
    """

    on_ray = True

    def __init__(self, config: RayConfig, note: Callable[..., None], beat: Callable[[], None]):
        self.config, self.note, self.beat = config, note, beat
        self._usual: deque[float] = deque(maxlen=64)
        self._asked, self._cores = float("-inf"), 1.0

    def run(self, function: Callable[..., Any], jobs: Iterable[Job[K]], cpus: float = 1.0) -> Iterator[tuple[K, Any]]:
        """Functions that take `careful` are told when an earlier start of theirs lost its worker."""
        import ray

        self._usual.clear()
        remote = ray.remote(max_retries=0, num_cpus=cpus)(_call)
        flying: dict[Any, _Flight] = {}
        by_ref: dict[Any, _Flight] = {}
        coming, exhausted = iter(jobs), False

        def start(flight: _Flight, here: bool = False) -> None:
            options = {"scheduling_strategy": _here()} if here else {}
            ref = remote.options(**options).remote(function, flight.arguments, flight.crashed)
            flight.starts += 1
            flight.refs.append(ref)
            by_ref[ref] = flight

        try:
            while True:
                width = self._width(cpus)
                while not exhausted and len(flying) < width:
                    job = next(coming, None)
                    if job is None:
                        exhausted = True
                        break
                    flight = _Flight(*job, began=time.monotonic())
                    flying[flight.key] = flight
                    start(flight)
                if not flying:
                    return
                ready, _ = ray.wait(list(by_ref), num_returns=1, timeout=POLL_SECONDS)
                if not ready:
                    self.beat()
                for ref in ready:
                    if ref not in by_ref:
                        continue  # its double was first
                    flight = by_ref.pop(ref)
                    flight.refs.remove(ref)
                    lost = self._outcome(ref)
                    if lost.error is None:
                        self._land(flight, flying, by_ref)
                        yield flight.key, lost.value
                    elif not flight.refs:
                        self._again(flight, lost.error, start)
                self._double(flying, start)
        finally:
            for ref in by_ref:
                ray.cancel(ref, force=False)

    def _width(self, cpus: float) -> int:
        """Twice what runs at once. The cluster may grow or shrink: asked anew each time, by what Ray has noticed."""
        import ray

        if self.config.workers:
            return max(2, int(2 * self.config.workers / max(cpus, 0.01)))
        if time.monotonic() - self._asked > 5:
            self._asked, self._cores = time.monotonic(), ray.cluster_resources().get("CPU", 1.0)
        return max(2, int(2 * self._cores / max(cpus, 0.01)))

    def _outcome(self, ref: Any) -> "_Outcome":
        import ray

        try:
            return _Outcome(ray.get(ref), None)
        except ray.exceptions.RayTaskError as error:
            # What a task says to a person is raised without Ray's traceback around it.
            if isinstance(error.cause, UserError | RunError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            return _Outcome(None, error)

    def _land(self, flight: _Flight, flying: dict[Any, _Flight], by_ref: dict[Any, _Flight]) -> None:
        import ray

        self._usual.append(time.monotonic() - flight.began)
        del flying[flight.key]
        for ref in flight.refs:
            del by_ref[ref]
            ray.cancel(ref, force=False)

    def _again(self, flight: _Flight, error: Exception, start: Callable[[_Flight], None]) -> None:
        """Every start of the task is lost: once more, or the end."""
        import ray

        # A lost node says nothing about the task; a dead worker on a living node may be the work of a picture.
        crashed = not isinstance(error, ray.exceptions.NodeDiedError)
        flight.crashed = flight.crashed or crashed
        if flight.starts >= self.config.attempts:
            raise RunError(
                f"task {flight.key} lost its worker {flight.starts} times ({type(error).__name__}): look for memory that "
                "runs out in the workers' logs; what is committed stays, and the same command goes on"
            )
        self.note("lost", task=str(flight.key), error=type(error).__name__, start=flight.starts)
        flight.began = time.monotonic()
        start(flight)

    def _double(self, flying: dict[Any, _Flight], start: Callable[..., None]) -> None:
        """Start once more, here, what stands long beyond the usual."""
        # Before anything has landed there is no usual: patience then, for the first tasks may be long ones.
        usual = sorted(self._usual)[len(self._usual) // 2] if self._usual else 2 * self.config.hedge_seconds
        now = time.monotonic()
        for flight in flying.values():
            if len(flight.refs) == 1 and now - flight.began > 2 * usual + self.config.hedge_seconds:
                self.note("doubled", task=str(flight.key), seconds=round(now - flight.began, 1))
                start(flight, here=True)


@dataclass(frozen=True)
class _Outcome:
    value: Any
    error: Exception | None


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], crashed: bool) -> Any:
    """A task. `crashed`: an earlier start lost its worker."""
    import inspect

    if crashed and "careful" in inspect.signature(function).parameters:
        return function(*arguments, careful=True)
    return function(*arguments)


def _here() -> Any:
    """Prefers the node of this process: it can be reached."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
