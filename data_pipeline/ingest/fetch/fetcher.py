"""(key, where a picture is) -> (key, its bytes or `FetchFailure`), as they complete.

The caller's thread pulls references, reads local files and takes results; a background thread (`Engine`, started by the
first reference that needs it) does what has to be waited for. What is in flight is bounded in number and in bytes, and
nothing starts while the caller is behind.
"""

import itertools
import queue
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from configs.ingest import FetchConfig
from data_pipeline.ingest.fetch.address import scheme_of
from data_pipeline.ingest.fetch.failure import Failed, FetchFailure
from data_pipeline.ingest.fetch.stored import SCHEMES, read_file
from data_pipeline.ingest.record import ImageRef

if TYPE_CHECKING:
    from data_pipeline.ingest.fetch.engine import Engine
    from data_pipeline.ingest.fetch.guard import Network
    from data_pipeline.ingest.fetch.schedule import Schedule

K = TypeVar("K")

_PULL = 64
_AHEAD = 1024
"""References pulled from the caller and not yet answered: enough to find other hosts behind a slow one."""

_WAIT_SECONDS = 5.0


class Fetcher:
    """One per worker process, kept for as long as it lives: its connections are used again.

    `network` is the world as the guard's tests see it.
    """

    def __init__(self, config: FetchConfig, *, network: "Network | None" = None) -> None:
        self._config, self._network = config, network
        self._engine: Engine | None = None

    def fetch(self, refs: Iterable[tuple[K, ImageRef]]) -> Iterator[tuple[K, bytes | FetchFailure]]:
        """Each reference once. A picture that cannot be had is a value.

        `refs` is pulled in the caller's thread, up to _AHEAD of them ahead. Giving up the iterator gives up what is
        in flight.

        Raises:
            UserError: `fetch.ca_bundle` cannot be used.
            RunError: the background thread died.
        """
        remaining = iter(refs)
        schedule: Schedule | None = None
        more, outstanding = True, 0
        try:
            while more or outstanding:
                if more and outstanding <= _AHEAD - _PULL:
                    batch = list(itertools.islice(remaining, _PULL))
                    more = len(batch) == _PULL
                    away = [(_host_of(ref.path), (key, ref)) for key, ref in batch if _is_away(ref)]
                    if away:
                        schedule = schedule or self._started().schedule()
                        self._started().call(schedule.add, away)
                        outstanding += len(away)
                    for key, ref in batch:
                        if not _is_away(ref):
                            yield key, self._read(ref)
                elif schedule is not None:
                    outstanding -= 1
                    yield self._take(schedule)
        finally:
            if schedule is not None and self._engine is not None:
                self._engine.give_up(schedule)

    def close(self) -> None:
        """End the background thread and its connections. More than once is fine."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _started(self) -> "Engine":
        if self._engine is None:
            from data_pipeline.ingest.fetch.engine import Engine  # late: a build of local files needs no aiohttp

            self._engine = Engine(self._config, self._network)
        return self._engine

    def _take(self, schedule: "Schedule") -> tuple[Any, bytes | FetchFailure]:
        engine = self._started()
        while True:
            try:
                key, result, held = schedule.ready.get(timeout=_WAIT_SECONDS)
                break
            except queue.Empty:
                engine.check()
        if held:
            engine.call(engine.budget.give_back, held)
        if schedule.took():
            engine.call(schedule.pump)
        return key, result

    def _read(self, ref: ImageRef) -> bytes | FetchFailure:
        scheme = scheme_of(ref.path)
        if scheme:
            return FetchFailure("scheme", f"{scheme}: pictures are not read from there")
        try:
            return read_file(ref.path, (ref.offset, ref.size) if ref.size >= 0 else None, self._config.max_bytes)
        except Failed as failed:
            return failed.failure


def _is_away(ref: ImageRef) -> bool:
    """Whether a reference has to be waited for: a URL that may be fetched, or a part of a file that a source named."""
    scheme = scheme_of(ref.path)
    if not scheme or scheme in ("http", "https"):
        return bool(scheme)
    if ref.size >= 0:
        return "://" in ref.path and "::" not in ref.path
    return scheme in SCHEMES and ref.path.startswith(f"{scheme}://") and "::" not in ref.path


def _host_of(path: str) -> str:
    """What the limit per host goes by: the host without credentials and port, or the bucket."""
    parts = path.split("/", 3)
    return parts[2].rpartition("@")[2].partition(":")[0].lower() if len(parts) > 2 else path[:8]
