"""The stream of results: each reference once, bounded in number, hosts and bytes, in step with who takes them."""

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipeline.ingest.fetch import engine
from data_pipeline.ingest.fetch.body import SMALL
from data_pipeline.ingest.fetch.failure import FetchFailure
from data_pipeline.ingest.record import ImageRef
from tests.data_pipeline.ingest.fetch.conftest import Made, get, reason
from tests.support.hostile import HostileServer
from tests.support.hostile_pictures import picture


def refs(
    server: HostileServer, count: int, path: str = "/good/{}.jpg", host: str = "127.0.0.1"
) -> list[tuple[int, ImageRef]]:
    return [(n, ImageRef(server.url(path.format(n), host))) for n in range(count)]


def wait_until(condition, seconds: float = 5.0) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_each_reference_once_from_everywhere(server: HostileServer, fetcher: Made, tmp_path: Path) -> None:
    """More than may be pulled ahead; files between URLs."""
    file = tmp_path / "a.jpg"
    file.write_bytes(picture(5))
    mixed = refs(server, 1500)
    mixed[::7] = [(n, ImageRef(str(file))) for n, _ in mixed[::7]]
    one = fetcher()
    for _ in range(2):
        results = list(one.fetch(iter(mixed)))
        assert sorted(key for key, _ in results) == list(range(1500))
        assert all(result == picture(5 if key % 7 == 0 else key % 10) for key, result in results)


def test_nothing_to_fetch(fetcher: Made) -> None:
    assert list(fetcher().fetch([])) == []


def test_files_alone_start_no_thread(fetcher: Made, tmp_path: Path) -> None:
    before = threading.active_count()
    assert reason(get(fetcher(), str(tmp_path / "none.jpg"))) == "not_found"
    assert threading.active_count() == before


def test_limits_of_hosts_and_of_all(server: HostileServer, fetcher: Made) -> None:
    list(fetcher(per_host=3).fetch(refs(server, 12, "/good/slow{}.jpg")))
    assert server.log.most == 3
    server.reset()
    hosts = itertools.chain(*(refs(server, 4, "/good/slow{}.jpg", f"127.0.0.{n}") for n in range(1, 6)))
    list(fetcher(per_host=3, concurrency=7).fetch(hosts))
    assert server.log.most == 7


def test_a_slow_host_does_not_hold_up_the_others(server: HostileServer, fetcher: Made) -> None:
    """300 pictures of a host that says nothing stand first; time in the queue is not counted against them."""
    one = fetcher(per_host=2, concurrency=4, deadline=30.0, robots_txt=False)
    slow = [(f"slow{n}", ImageRef(server.url(f"/silent.jpg?{n}"))) for n in range(300)]
    fast = [(f"fast{n}", ImageRef(server.url(f"/good/{n}.jpg", "127.0.0.2"))) for n in range(50)]
    stream = one.fetch(slow + fast)
    assert {key for key, _ in itertools.islice(stream, 50)} == {key for key, _ in fast}
    stream.close()


def test_time_in_the_queue_does_not_count(server: HostileServer, fetcher: Made) -> None:
    """15 pictures of 0.1 s each, one at a time, with a deadline of 1 s for each."""
    results = list(fetcher(per_host=1, deadline=1.0).fetch(refs(server, 15, "/good/slow{}.jpg")))
    assert all(isinstance(result, bytes) for _, result in results)


def test_fetching_stops_while_nobody_takes(server: HostileServer, fetcher: Made) -> None:
    one = fetcher(concurrency=4, robots_txt=False)
    stream = one.fetch(refs(server, 200))
    next(stream)
    wait_until(lambda: len(server.log.seen) >= 8)
    time.sleep(0.3)
    assert len(server.log.seen) <= 2 * 4 + 1
    assert len(list(stream)) == 199


def test_references_are_pulled_as_they_are_needed(server: HostileServer, fetcher: Made) -> None:
    pulled = []

    def endless() -> Iterator[tuple[int, ImageRef]]:
        for n in itertools.count():
            pulled.append(n)
            yield n, ImageRef(server.url(f"/good/{n}.jpg"))

    stream = fetcher().fetch(endless())
    for taken in range(1, 300):
        next(stream)
        assert len(pulled) <= taken + 1024
    stream.close()


def test_large_pictures_share_a_bound(server: HostileServer, fetcher: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for two: who waits for room while nobody takes does not run out of time."""
    size = 2 * SMALL
    monkeypatch.setattr(engine, "LARGE_BYTES", 2 * size)
    one = fetcher(max_bytes=size, deadline=1.0, robots_txt=False)
    stream = one.fetch(
        [*refs(server, 4, f"/large.jpg?{size}&a={{}}"), *refs(server, 4, f"/large.jpg?{size}&chunked={{}}")]
    )
    results = [next(stream)]
    budget = one._engine.budget  # type: ignore[union-attr]
    time.sleep(1.5)
    assert budget.taken == 2 * size
    results += stream
    assert sorted(key for key, _ in results) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(result == bytes(size) for _, result in results)
    wait_until(lambda: budget.taken == 0)


def test_room_is_given_back_by_failures_and_by_who_gives_up(
    server: HostileServer, fetcher: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2 * SMALL
    monkeypatch.setattr(engine, "LARGE_BYTES", 2 * size)
    one = fetcher(max_bytes=size, robots_txt=False)
    failures = list(one.fetch(refs(server, 5, "/endless.jpg?{}")))
    assert {result.reason for _, result in failures if isinstance(result, FetchFailure)} == {"too_large"}
    budget = one._engine.budget  # type: ignore[union-attr]
    wait_until(lambda: budget.taken == 0)
    stream = one.fetch(refs(server, 9, f"/large.jpg?{size}&a={{}}"))
    next(stream)
    stream.close()
    wait_until(lambda: budget.taken == 0)


def test_a_failure_that_nobody_took_yet_holds_no_room(server: HostileServer, fetcher: Made) -> None:
    one = fetcher(deadline=0.7, robots_txt=False)
    stream = one.fetch([*refs(server, 1), *refs(server, 1, f"/stall.jpg?{2 * SMALL}")])
    assert next(stream) == (0, picture())
    budget = one._engine.budget  # type: ignore[union-attr]
    wait_until(lambda: budget.taken == 2 * SMALL + 1)
    wait_until(lambda: budget.taken == 0)
    assert reason(next(stream)[1]) == "deadline"


def test_giving_up_ends_what_is_in_flight(server: HostileServer, fetcher: Made) -> None:
    one = fetcher(deadline=60.0, robots_txt=False)
    stream = one.fetch([*refs(server, 20, "/trickle.jpg?{}"), *refs(server, 1, host="127.0.0.2")])
    assert next(stream) == (0, picture())
    assert server.log.running
    stream.close()
    wait_until(lambda: not server.log.running)
    assert {key for key, _ in one.fetch(refs(server, 3, host="127.0.0.3"))} == {0, 1, 2}
    start = time.monotonic()
    one.close()
    one.close()
    assert time.monotonic() - start < 5


def test_a_caller_that_fails_leaves_a_fetcher_that_works(server: HostileServer, fetcher: Made) -> None:
    def broken() -> Iterator[tuple[int, ImageRef]]:
        yield from refs(server, 70)
        raise KeyError("the caller's own")

    one = fetcher()
    with pytest.raises(KeyError, match="the caller's own"):
        list(one.fetch(broken()))
    assert get(one, server.url("/good/1.jpg")) == picture(1)


def test_two_streams_of_one_fetcher(server: HostileServer, fetcher: Made) -> None:
    one = fetcher()
    both = list(zip(one.fetch(refs(server, 100)), one.fetch(refs(server, 100)), strict=True))
    for side in (0, 1):
        assert sorted(pair[side][0] for pair in both) == list(range(100))


def test_idle_connections_of_many_hosts_are_bounded(server: HostileServer, fetcher: Made) -> None:
    one = fetcher(concurrency=2, robots_txt=False)
    many = [(n, ImageRef(server.url("/good/1.jpg", f"127.0.{1 + n // 200}.{1 + n % 200}"))) for n in range(400)]
    assert all(isinstance(result, bytes) for _, result in one.fetch(many))
    assert server.log.connections == 400
    guard = one._engine._client._guard  # type: ignore[union-attr]
    wait_until(lambda: not guard.is_crowded(2 * 2 + 128 + 2))
    assert guard.is_crowded(64), "idle connections are kept up to the bound"


def test_a_fault_of_ours_is_a_row_with_a_name(
    server: HostileServer, fetcher: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_pipeline.ingest.fetch import client

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(client, "parse_url", broken)
    assert get(fetcher(), server.url("/good/1.jpg")) == FetchFailure("unexpected", "ZeroDivisionError")


def test_a_dead_thread_is_said(server: HostileServer, fetcher: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from configs.errors import RunError
    from data_pipeline.ingest.fetch import fetcher as module

    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.2)
    one = fetcher()
    assert get(one, server.url("/good/1.jpg")) == picture(1)
    stream = one.fetch(refs(server, 1, "/silent.jpg"))
    threading.Timer(0.3, lambda: one._engine._loop.call_soon_threadsafe(one._engine._loop.stop)).start()  # type: ignore[union-attr]
    with pytest.raises(RunError, match="has ended"):
        next(stream)
