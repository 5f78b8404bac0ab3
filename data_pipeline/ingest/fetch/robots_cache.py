"""robots.txt of each origin, asked for once: origin -> `Rules`, or the failure that says why not.

Bounded in bytes, with expiry. However many pictures of a site start at once, one request is made; who gives up waiting
does not end it for the others.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from yarl import URL

from data_pipeline.ingest.fetch.failure import Failed, FetchFailure
from data_pipeline.ingest.fetch.robots import Rules

KEPT_SECONDS = 24 * 3600.0  # RFC 9309: no longer than a day
FAILED_SECONDS = 60.0
MAX_BYTES = 32 * 2**20

Origin = tuple[str, str | None, int | None]


class RobotsCache:
    """`load(origin URL)` gives an origin's rules or raises `Failed`. Lives in one event loop."""

    def __init__(self, load: Callable[[URL], Awaitable[Rules]], max_bytes: int = MAX_BYTES) -> None:
        self._load = load
        self._max_bytes = max_bytes
        self._known: OrderedDict[Origin, tuple[float, Rules | FetchFailure]] = OrderedDict()
        self._size = 0
        self._loading: dict[Origin, asyncio.Task[Rules | FetchFailure]] = {}

    async def check(self, url: URL) -> None:
        """Raises Failed: robots_txt where the rules forbid the URL, or why there are no rules."""
        origin = (url.scheme, url.raw_host, url.port)
        known = self._known.get(origin)
        if known is not None and known[0] > time.monotonic():
            self._known.move_to_end(origin)
            rules = known[1]
        else:
            rules = await self._loaded(origin, url)
        if isinstance(rules, FetchFailure):
            raise Failed(rules.reason, rules.detail, retryable=rules.retryable, again=False)
        if rules.rules and not rules.allows(url.raw_path_qs):
            raise Failed("robots_txt", "robots.txt does not allow it")

    async def _loaded(self, origin: Origin, url: URL) -> Rules | FetchFailure:
        task = self._loading.get(origin)
        if task is None:
            task = self._loading[origin] = asyncio.create_task(self._ask(origin, url))
        return await asyncio.shield(task)

    async def _ask(self, origin: Origin, url: URL) -> Rules | FetchFailure:
        answer: Rules | FetchFailure
        try:
            answer = await self._load(url.origin())
        except Failed as failed:
            answer = failed.failure
        finally:
            del self._loading[origin]
        self._remember(origin, answer)
        return answer

    def _remember(self, origin: Origin, answer: Rules | FetchFailure) -> None:
        seconds = KEPT_SECONDS if isinstance(answer, Rules) else FAILED_SECONDS
        self._forget(origin)
        self._known[origin] = (time.monotonic() + seconds, answer)
        self._size += _size(answer)
        while self._size > self._max_bytes and len(self._known) > 1:
            self._forget(next(iter(self._known)))

    def _forget(self, origin: Origin) -> None:
        known = self._known.pop(origin, None)
        if known is not None:
            self._size -= _size(known[1])

    async def close(self) -> None:
        tasks = list(self._loading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _size(answer: Rules | FetchFailure) -> int:
    return answer.size if isinstance(answer, Rules) else 500
