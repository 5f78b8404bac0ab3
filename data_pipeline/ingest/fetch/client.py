"""One picture over HTTP: URL -> bytes or `FetchFailure`, within the deadline whatever the server does.

```
URL --parse_url--> guard --> robots.txt --> request --> status --> X-Robots-Tag --> body (capped) --> bytes
        ^                                                 |
        +------------- redirect: each hop anew -----------+        retries around it, one clock around all
```
One connection pool and one TLS context for as long as the worker lives. A redirect from https to http is followed:
lists name http themselves, nothing secret is sent, and no cookie or credential goes along. Proxies of the environment
are not used, as a proxy would look up names behind the guard's back.
"""

import asyncio
import email.utils
import time
from collections.abc import Callable
from typing import Any

import aiohttp
from yarl import URL

from configs.ingest import FetchConfig
from data_pipeline.ingest.fetch import robots
from data_pipeline.ingest.fetch.address import parse_url
from data_pipeline.ingest.fetch.body import Room, read_body, too_large
from data_pipeline.ingest.fetch.budget import Budget
from data_pipeline.ingest.fetch.failure import Failed
from data_pipeline.ingest.fetch.guard import Guard
from data_pipeline.ingest.fetch.network_error import explain
from data_pipeline.ingest.fetch.optout import opted_out, product_token
from data_pipeline.ingest.fetch.pool import Pool
from data_pipeline.ingest.fetch.robots_cache import RobotsCache
from data_pipeline.ingest.fetch.threads import Threads

BACKOFF_SECONDS = 0.5
"""Before the first retry; doubled before each further one."""

_REDIRECTS = (301, 302, 303, 307, 308)
_MAY_PASS = (408, 425, 429)
_NEVER_PASS = (501, 505, 508, 510, 511)
_DRAIN_BYTES = 65_536
_DRAIN_SECONDS = 1.0

_NOT_HTTP = (aiohttp.ClientResponseError, aiohttp.http_exceptions.HttpProcessingError)

Rest = Callable[[float], None]


class Client:
    """Made and used in one event loop."""

    def __init__(self, config: FetchConfig, pool: Pool, guard: Guard, threads: Threads, budget: Budget) -> None:
        self._config, self._pool, self._guard, self._threads, self._budget = config, pool, guard, threads, budget
        self._agent = product_token(config.user_agent)
        self._unwanted = frozenset(word.lower() for word in config.opt_out)
        self._answer_seconds = config.deadline / 2 if config.retries else None
        self._robots = RobotsCache(self._load_robots) if config.robots_txt else None

    async def close(self) -> None:
        if self._robots is not None:
            await self._robots.close()
        await self._pool.close()

    async def fetch(
        self, text: str, part: tuple[int, int] | None, room: Room, clock: asyncio.Timeout, rest: Rest
    ) -> bytes:
        """The bytes at a URL, or its `part` (offset, size).

        `clock` is the picture's deadline, running. `rest(seconds)` is called where the host asks to be left alone.

        Raises:
            Failed: for any reason but the clock.
        """
        url = parse_url(text, self._guard.may_connect)
        if part and part[1] > self._config.max_bytes:
            raise too_large(self._config.max_bytes)
        for attempt in range(self._config.retries + 1):
            try:
                return await self._follow(url, part, room)
            except Failed as failed:
                room.release()
                pause = max(BACKOFF_SECONDS * 2**attempt, failed.wait)
                in_time = (clock.when() or 0.0) - asyncio.get_running_loop().time() > pause
                if failed.wait:
                    rest(failed.wait if in_time else 1.0)
                if not failed.again or attempt == self._config.retries or not in_time:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    async def _follow(self, url: URL, part: tuple[int, int] | None, room: Room) -> bytes:
        headers = {"Range": f"bytes={part[0]}-{part[0] + part[1] - 1}"} if part else None
        for _ in range(self._config.max_redirects + 1):
            if self._robots is not None:
                await self._robots.check(url)
            response = await self._ask(url, headers)
            try:
                status = response.status
                if self._unwanted and "X-Robots-Tag" in response.headers and status < 400:
                    self._check_opt_out(response.headers.getall("X-Robots-Tag"))
                if status not in _REDIRECTS or "Location" not in response.headers:
                    return await self._body(response, part, room)
                await _drain(response)
                url = parse_url(response.headers["Location"], self._guard.may_connect, url)
            except (aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError, OSError) as error:
                raise explain(error) from None
            finally:
                response.release()
        raise Failed("too_many_redirects", f"more than {self._config.max_redirects}")

    async def _ask(self, url: URL, headers: dict[str, str] | None) -> aiohttp.ClientResponse:
        """Send the request, return when the answer's headers are there."""
        session = self._pool.session()
        try:
            async with asyncio.timeout(self._answer_seconds):
                try:
                    return await session.get(url, headers=headers, allow_redirects=False)
                except _NOT_HTTP:
                    # What an earlier answer on this connection left behind is not this picture's fault.
                    return await self._pool.fresh().get(url, headers=headers, allow_redirects=False)
        except TimeoutError:
            raise Failed("no_answer", f"nothing within {self._answer_seconds:g} s", retryable=True) from None
        except Exception as error:
            raise explain(error) from None

    def _check_opt_out(self, lines: list[str]) -> None:
        said = opted_out(lines, self._unwanted, self._agent)
        if said is not None:
            raise Failed("opt_out", f"X-Robots-Tag: {said}")

    async def _body(self, response: aiohttp.ClientResponse, part: tuple[int, int] | None, room: Room) -> bytes:
        if response.status not in (200, 203, 206) or (response.status == 206) != (part is not None):
            if part and response.status == 200:
                raise Failed("no_ranges", "the server does not serve parts of a file")
            await _drain(response)
            raise _status(response)
        body = await read_body(response, part[1] if part else self._config.max_bytes, room, self._threads)
        if part and not response.headers.get("Content-Range", "").startswith(f"bytes {part[0]}-"):
            raise Failed("bad_answer", "another part than the one asked for")
        if part and len(body) != part[1]:
            raise Failed("truncated", f"{len(body)} of {part[1]} bytes")
        return body

    async def _load_robots(self, origin: URL) -> robots.Rules:
        """RFC 9309, 2.3.1: rules where there are some, everything allowed on 4xx, a failure else."""
        last = Failed("robots_unreachable", "robots.txt cannot be had", retryable=True)
        try:
            async with asyncio.timeout(self._config.deadline / 2):
                for attempt in range(self._config.retries + 1):
                    try:
                        return await self._ask_robots(origin / "robots.txt")
                    except Failed as failed:
                        last = failed
                        if not failed.again or attempt == self._config.retries:
                            break
                    await asyncio.sleep(max(BACKOFF_SECONDS * 2**attempt, last.wait))
        except TimeoutError:
            raise Failed("robots_unreachable", "robots.txt does not come", retryable=True) from None
        raise last

    async def _ask_robots(self, url: URL) -> robots.Rules:
        for _ in range(max(5, self._config.max_redirects) + 1):
            response = await self._ask(url, None)
            try:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    await _drain(response)
                    url = parse_url(response.headers["Location"], self._guard.may_connect, url)
                    continue
                if response.status >= 500:
                    detail = f"robots.txt answers {response.status}"
                    raise Failed("robots_unreachable", detail, retryable=True, wait=_retry_after(response))
                if response.status >= 300:
                    await _drain(response)
                    return robots.ALLOW_ALL
                return robots.parse(await _head(response, robots.MAX_BYTES), self._agent)
            except (aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError, OSError) as error:
                raise explain(error) from None
            finally:
                response.release()
        return robots.ALLOW_ALL  # RFC 9309, 2.3.1.2: after five redirects it may be taken as not there


async def _head(response: aiohttp.ClientResponse, size: int) -> bytes:
    """The first `size` bytes of a body, all of it where it is shorter."""
    pieces: list[bytes] = []
    left = size
    while left > 0 and (piece := await response.content.readany()):
        pieces.append(piece[:left])
        left -= len(piece)
    return b"".join(pieces)


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read a short body that nobody wants, so that the connection can be used again; a new one costs far more."""
    if (response.content_length or 0) > _DRAIN_BYTES:
        return
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            await _head(response, _DRAIN_BYTES)
    except (TimeoutError, aiohttp.ClientError):
        return  # the status is known already; the connection is closed instead


def _status(response: aiohttp.ClientResponse) -> Failed:
    status = response.status
    may_pass = status in _MAY_PASS or (status >= 500 and status not in _NEVER_PASS)
    wait = _retry_after(response) if may_pass else 0.0
    detail = f"the server answers {status}" + (f" and asks to wait {wait:.0f} s" if wait else "")
    return Failed(f"http_{status}", detail, retryable=may_pass, wait=wait)


def _retry_after(response: Any) -> float:
    """Seconds that Retry-After asks for, as a number or as a date; 0 where it says nothing that could be read."""
    said = response.headers.get("Retry-After", "").strip()
    if said.isdecimal() and said.isascii():
        return float(min(int(said[:10]), 10**6))
    try:
        return max(0.0, min(email.utils.parsedate_to_datetime(said).timestamp() - time.time(), 1e6))
    except (ValueError, TypeError, OverflowError):
        return 0.0
