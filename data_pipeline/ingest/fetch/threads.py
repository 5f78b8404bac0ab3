"""A few daemon threads for calls that block: functions -> futures.

Not `ThreadPoolExecutor`: its threads are joined when the process ends, so that one look-up or one read that hangs
would hold up the end of a worker; these do not.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """At most `limit` threads named `name`, started when they are needed."""

    def __init__(self, name: str, limit: int) -> None:
        self._name, self._limit = name, limit
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._started = 0
        self._open = 0  # tasks that wait or run
        self._lock = threading.Lock()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            self._open += 1
            start = self._started < min(self._open, self._limit)
            self._started += start
            number = self._started
        self._tasks.put((future, call))
        if start:
            threading.Thread(target=self._work, name=f"{self._name}-{number}", daemon=True).start()
        return future

    def close(self) -> None:
        """Let idle threads end; what runs is not waited for."""
        for _ in range(self._started):
            self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, call = task
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
            with self._lock:
                self._open -= 1
