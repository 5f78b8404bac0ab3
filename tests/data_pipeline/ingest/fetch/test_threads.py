"""Daemon threads: as many as are needed, up to a limit; one that hangs holds up nobody while others are free."""

import threading

import pytest

from data_pipeline.ingest.fetch.threads import Threads


def test_results_and_errors() -> None:
    threads = Threads("test", 2)
    assert [threads.submit(lambda n=n: n * n).result(5) for n in range(20)] == [n * n for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result(5)
    threads.close()


def test_a_call_that_hangs_holds_up_nobody() -> None:
    threads = Threads("hanging", 3)
    release = threading.Event()
    hanging = [threads.submit(lambda: release.wait(30)) for _ in range(2)]
    for _ in range(200):
        assert threads.submit(lambda: 1).result(5) == 1
    third = threads.submit(lambda: release.wait(30))
    waiting, given_up = threads.submit(lambda: 2), threads.submit(lambda: 3)
    assert given_up.cancel(), "it never runs"
    assert sum(thread.name.startswith("hanging-") for thread in threading.enumerate()) == 3
    assert not waiting.done()
    release.set()
    assert waiting.result(5) == 2 and all(future.result(5) for future in (*hanging, third))
    threads.close()
