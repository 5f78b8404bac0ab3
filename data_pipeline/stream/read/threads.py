"""Threads that wait for the network. Unlike those of an executor they do not hold up a process that ends."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
Work = tuple[Future[Any], Callable[[], Any]]


class Threads:
    """Runs calls in up to `most` threads, which are made as they are needed and go with this object.

    A request to a storage that died ends only after minutes; its thread is left behind, whatever the process does.
    """

    def __init__(self, most: int, name: str):
        self.most, self.name = most, name
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._made = 0

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """A future of what `call` gives or raises."""
        future: Future[T] = Future()
        self._work.put((future, call))
        if not self._idle.acquire(blocking=False):
            with self._lock:
                if self._made < self.most:
                    self._made += 1
                    target = threading.Thread(
                        target=_run, args=(self._work, self._idle), name=f"{self.name}-{self._made}", daemon=True
                    )
                    target.start()
        return future

    def __del__(self) -> None:
        for _ in range(getattr(self, "_made", 0)):
            self._work.put(None)


def _run(work: "queue.SimpleQueue[Work | None]", idle: threading.Semaphore) -> None:
    while True:
        try:
            item = work.get_nowait()
        except queue.Empty:
            idle.release()
            item = work.get()
        if item is None:
            return
        future, call = item
        if not future.set_running_or_notify_cancel():
            continue
        try:
            result = call()
        except BaseException as error:  # it is raised where the result is asked for
            future.set_exception(error)
        else:
            future.set_result(result)
        del item, future, call  # an idle thread holds no result
