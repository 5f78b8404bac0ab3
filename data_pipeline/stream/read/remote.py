"""Bytes over the network: neighbours in one request, slow requests asked twice, failures retried to a deadline."""

import collections
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from functools import partial

from configs.data import ReadConfig
from configs.errors import RunError
from data_pipeline.storage import read_bytes, read_range, size_of
from data_pipeline.stream.read.cache import DiskCache
from data_pipeline.stream.read.members import BadSample, Place, StoredSample, cut
from data_pipeline.stream.read.threads import Threads

GAP = 256 * 1024
"""Bytes between two samples that are fetched along rather than asked around: about what a request costs in time."""
LARGEST = 8 << 20
"""Of one request."""
STALLED = 8
"""For each request in flight, so many threads at most wait for answers that nobody needs any more."""
MOST_ASKED = 3
"""Requests for the same bytes at a time: of two, one in 2,500 stalls where one in 50 does."""
REMEMBERED = 256
LEAST_HEDGE = 0.05
FIRST_HEDGE = 0.5
"""Seconds before a second request, while it is not known how long one takes."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 8.0
PASSING, BEHIND_THE_END = (408, 425, 429), 416
"""HTTP's answers of the 400s that may be others later, and the one for a range that begins after the end."""


@dataclass(frozen=True)
class Span:
    """A range of a tar, and which of the places asked for lie in it."""

    tar: str
    start: int
    end: int
    members: tuple[int, ...]


def spans(places: Sequence[Place]) -> list[Span]:
    """Ranges that hold all places: neighbours joined where the gap is small."""
    order = sorted(range(len(places)), key=lambda k: (places[k].tar, places[k].start))
    out: list[Span] = []
    for k in order:
        place = places[k]
        last = out[-1] if out else None
        near = last is not None and last.tar == place.tar and place.start - last.end <= GAP
        if last is not None and near and max(place.end, last.end) - last.start <= LARGEST:
            out[-1] = Span(last.tar, last.start, max(last.end, place.end), (*last.members, k))
        else:
            out.append(Span(place.tar, place.start, place.end, (k,)))
    return out


class Hedged:
    """Runs a request, and another one when it takes longer than requests usually do; the first answer counts."""

    def __init__(self, pool: Threads, hedge_seconds: float | None, retry_seconds: float):
        self.pool, self.fixed, self.retry_seconds = pool, hedge_seconds, retry_seconds
        self.hedges = 0
        self._seconds: collections.deque[float] = collections.deque(maxlen=REMEMBERED)
        self._lock = threading.Lock()

    def patience(self) -> float:
        """Seconds after which a second request is made: three times the median."""
        if self.fixed is not None:
            return self.fixed
        with self._lock:
            known = sorted(self._seconds)
        return max(LEAST_HEDGE, 3 * known[len(known) // 2]) if len(known) >= 20 else FIRST_HEDGE

    def get(self, path: str, request: Callable[[], bytes]) -> bytes:
        """The bytes of whichever request answers first.

        Raises:
            RunError: none did within `retry_seconds`, or the server refuses.
            FileNotFoundError, UserError: as the request.
        """
        started, pause = time.monotonic(), FIRST_PAUSE
        running = {self.pool.submit(partial(self._timed, request))}
        error: BaseException | None = None
        while time.monotonic() - started < self.retry_seconds:
            done, running = wait(running, timeout=self.patience(), return_when=FIRST_COMPLETED)
            for future in done:
                failed = future.exception()
                if failed is None:
                    data, seconds = future.result()
                    with self._lock:
                        self._seconds.append(seconds)  # not of those that were overtaken: they say what is unusual
                    return data
                _raise_final(path, failed)
                error = failed
            if done:
                # What failed at once would fail again at once. One that still runs may answer meanwhile.
                rest = pause * random.uniform(0.5, 1.0)
                wait(running, timeout=rest) if running else time.sleep(rest)
                pause = min(2 * pause, LONGEST_PAUSE)
            if len(running) < MOST_ASKED:
                self.hedges += bool(running)
                running.add(self.pool.submit(partial(self._timed, request)))
        raise RunError(
            f"{path} could not be read for {self.retry_seconds:.0f} s ({error}): check the storage"
        ) from error

    @staticmethod
    def _timed(request: Callable[[], bytes]) -> tuple[bytes, float]:
        start = time.monotonic()
        return request(), time.monotonic() - start


def _raise_final(path: str, error: BaseException) -> None:
    """Raise what another try cannot mend. HTTP clients' errors are no OSErrors, but say their status."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500 and status not in PASSING:
        raise RunError(f"{path}: the server answers {status}: check the address and the rights") from error
    client = type(error).__module__.partition(".")[0] == "aiohttp"
    if isinstance(error, FileNotFoundError) or not (client or isinstance(error, OSError | RunError)):
        raise error


class RemoteTars:
    """The tars of a remote folder."""

    def __init__(self, folder: str, identity: str, config: ReadConfig):
        self.config = config
        self.cache = DiskCache(config.cache, identity, config.cache_gb) if config.cache else None
        # Requests that stall stay behind in their threads while second ones overtake them.
        self._pool = Threads(STALLED * config.connections, "fetch")
        self._callers = Threads(config.connections, "read")
        self.hedged = Hedged(self._pool, config.hedge_seconds, config.retry_seconds)

    def read(self, places: Sequence[Place], check: bool) -> list[StoredSample | BadSample]:
        """Samples in the order of their places."""
        found: list[StoredSample | BadSample | None] = [None] * len(places)
        missing = list(range(len(places)))
        if self.cache is not None:
            missing = [k for k in missing if not self._cached(places[k], k, found)]
        joined = spans([places[k] for k in missing])
        answers = [self._callers.submit(partial(self.range, span.tar, span.start, span.end)) for span in joined]
        for span, answer in zip(joined, answers, strict=True):
            data = memoryview(answer.result())
            for member in span.members:
                place = places[missing[member]]
                sample = cut(place, data, span.start, check)
                if isinstance(sample, BadSample):  # of the bytes only if they come so twice
                    sample = cut(place, self.range(place.tar, place.start, place.end), place.start, check)
                elif self.cache is not None:
                    self.cache.put(place.tar, place.start, data[place.start - span.start : place.end - span.start])
                found[missing[member]] = sample
        return [sample for sample in found if sample is not None]

    def _cached(self, place: Place, number: int, found: list[StoredSample | BadSample | None]) -> bool:
        """Whether the node's disk has it. Bytes there are always checked: a worn disk must not become a bad sample."""
        assert self.cache is not None
        data = self.cache.get(place.tar, place.start, place.end - place.start)
        if data is None:
            return False
        sample = cut(place, memoryview(data), place.start, True)
        if isinstance(sample, BadSample):
            self.cache.drop(place.tar, place.start)
            return False
        found[number] = sample
        return True

    def range(self, tar: str, start: int, end: int) -> bytes:
        """Bytes start ... end - 1; fewer only where the tar ends. Raises RunError."""
        try:
            return self.hedged.get(tar, partial(_range, tar, start, end))
        except FileNotFoundError:
            raise RunError(f"{tar} is gone: the dataset changed under the run; run `looksay data verify`") from None

    def whole(self, path: str) -> bytes:
        """A small file. Raises FileNotFoundError."""
        data = self.cache.get_whole(path) if self.cache is not None else None
        if data is None:
            data = self.hedged.get(path, partial(read_bytes, path))
            if self.cache is not None:
                self.cache.put_whole(path, data)
        return data

    def wholes(self, paths: Sequence[str]) -> list[bytes | None]:
        """Small files at the same time; None for one that is not there."""

        def there(path: str) -> bytes | None:
            try:
                return self.whole(path)
            except FileNotFoundError:
                return None

        answers = [self._callers.submit(partial(there, path)) for path in paths]
        return [answer.result() for answer in answers]


def _range(path: str, start: int, end: int) -> bytes:
    """A ranged read that is as long as asked, unless the file ends: a short answer alone does not prove that.

    Raises:
        OSError: the answer is short although the file goes on.
    """
    try:
        data = read_range(path, start, end - start)
    except Exception as error:
        if getattr(error, "status", None) != BEHIND_THE_END:
            raise
        data = b""
    if len(data) > end - start:  # a server without ranges sent all
        return data[start:end]
    if len(data) < end - start and min(size_of(path), end) - start > len(data):
        raise OSError(f"{len(data)} of {end - start} bytes came")
    return data
