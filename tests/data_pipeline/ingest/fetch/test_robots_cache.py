"""What the cache of robots.txt keeps, for how long, and whom it makes wait."""

import asyncio

import pytest
from yarl import URL

from data_pipeline.ingest.fetch import robots_cache
from data_pipeline.ingest.fetch.failure import Failed
from data_pipeline.ingest.fetch.robots import ALLOW_ALL, Rules, parse
from data_pipeline.ingest.fetch.robots_cache import RobotsCache


class Loader:
    def __init__(self, answer: Rules | Failed = ALLOW_ALL) -> None:
        self.asked: list[str] = []
        self.answer = answer
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, origin: URL) -> Rules:
        self.asked.append(str(origin))
        await self.gate.wait()
        if isinstance(self.answer, Failed):
            raise self.answer
        return self.answer


def test_origins_are_scheme_host_and_port() -> None:
    async def run() -> None:
        load = Loader()
        cache = RobotsCache(load)
        for url in ("http://a/x", "http://a:80/y", "https://a/", "http://a:81/", "http://b/", "http://a/z"):
            await cache.check(URL(url))
        assert load.asked == ["http://a", "https://a", "http://a:81", "http://b"]

    asyncio.run(run())


def test_who_gives_up_does_not_end_it_for_the_others() -> None:
    async def run() -> None:
        load = Loader()
        load.gate.clear()
        cache = RobotsCache(load)
        first, second = (asyncio.create_task(cache.check(URL("http://a/x"))) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        load.gate.set()
        await second
        assert len(load.asked) == 1

    asyncio.run(run())


def test_a_failure_is_forgotten_soon_and_rules_within_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(robots_cache.time, "monotonic", lambda: now[0])

    async def run() -> None:
        load = Loader(Failed("dns", "no", retryable=True))
        cache = RobotsCache(load)
        for _ in range(2):
            with pytest.raises(Failed) as caught:
                await cache.check(URL("http://a/x"))
            assert caught.value.failure.reason == "dns" and caught.value.failure.retryable
            assert not caught.value.again, "the picture's own retries would only meet the same answer"
        load.answer = ALLOW_ALL
        now[0] += robots_cache.FAILED_SECONDS + 1
        await cache.check(URL("http://a/x"))
        assert len(load.asked) == 2
        now[0] += robots_cache.KEPT_SECONDS + 1
        await cache.check(URL("http://a/x"))
        assert len(load.asked) == 3

    asyncio.run(run())


def test_memory_is_bounded_and_the_longest_unused_goes() -> None:
    rules = parse(b"User-agent: *\n" + b"".join(b"Disallow: /%d\n" % n for n in range(100)), "looksay")

    async def run() -> None:
        load = Loader(rules)
        cache = RobotsCache(load, max_bytes=3 * rules.size)
        for host in ("a", "b", "c", "a", "d", "a", "b"):
            await cache.check(URL(f"http://{host}/x"))
        assert load.asked == [f"http://{host}" for host in ("a", "b", "c", "d", "b")]
        assert cache._size <= 3 * rules.size and len(cache._known) == 3

    asyncio.run(run())
