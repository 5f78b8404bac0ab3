"""Which picture is fetched when: tasks with their hosts -> results in a queue, bounded in every way.

```
add -> waiting, by host -> running (<= concurrency, <= per_host of each host) -> ready -> consumer's thread
                              ^                                                  |
                              +---------- none starts while the consumer is behind
```
A host's clock does not run for pictures that wait for their turn: a slow host uses up its own pictures' time only, and
never more than `per_host` of the places.

Everything but `taken` happens in the event loop's thread. The consumer counts what it took in `taken`, and wakes the
loop only when `starved` says that it stands still, at most once per half a window: a wake-up costs a system call.
"""

import asyncio
import queue
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

Work = Callable[["Schedule", Any, Callable[[float], None]], Coroutine[Any, Any, None]]


class Host:
    """Tasks of one host. `resume_at`: it asked to be left alone until then (time of the loop)."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting: deque[Any] = deque()
        self.running = 0
        self.resume_at = 0.0
        self.listed = False


class Schedule:
    """Of one `Fetcher.fetch` call. `work(schedule, task, rest)` fetches one task and delivers its result."""

    def __init__(self, loop: asyncio.AbstractEventLoop, concurrency: int, per_host: int, work: Work) -> None:
        self.ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.starved = False
        self.taken = 0
        self._loop, self._work = loop, work
        self._concurrency, self._per_host = concurrency, per_host
        self._finished = 0
        self._hosts: dict[str, Host] = {}
        self._turn: deque[tuple[str, Host]] = deque()  # hosts that may start one, in order
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._number = 0
        self._given_up = False

    def add(self, tasks: list[tuple[str, Any]]) -> None:
        """(host, task) pairs; `pump` follows."""
        for name, task in tasks:
            host = self._hosts.get(name)
            if host is None:
                host = self._hosts[name] = Host(self._per_host)
            host.waiting.append(task)
            self._list(name, host)
        self.pump()

    def pump(self) -> None:
        """Start what may start."""
        while self._turn and len(self._tasks) < self._concurrency:
            if self._is_behind():
                self.starved = True
                if self._is_behind():  # again, as the consumer may have taken all just before it could see the flag
                    return
                self.starved = False
            name, host = self._turn.popleft()
            host.listed = False
            if host.resume_at > self._loop.time():
                self._list(name, host)
                continue
            self._number += 1
            work = self._run(self._number, name, host, host.waiting.popleft())
            self._tasks[self._number] = self._loop.create_task(work)
            host.running += 1
            self._list(name, host)

    def took(self) -> bool:
        """The consumer's thread took one from `ready`. True: the loop stands still, call `pump` there."""
        self.taken += 1
        if self.starved and self._finished - self.taken <= self._concurrency // 2:
            self.starved = False
            return True
        return False

    def deliver(self, result: Any) -> bool:
        """False: nobody takes it any more."""
        if not self._given_up:
            self.ready.put(result)
        return not self._given_up

    def cancel(self) -> list[Any]:
        """Give up all that waits or runs; what was delivered and not taken is returned."""
        self._given_up = True
        self._turn.clear()
        for host in self._hosts.values():
            host.waiting.clear()
        for task in self._tasks.values():
            task.cancel()
        left = []
        while not self.ready.empty():
            left.append(self.ready.get())
        return left

    def _is_behind(self) -> bool:
        return len(self._tasks) + self._finished - self.taken >= 2 * self._concurrency

    def _list(self, name: str, host: Host) -> None:
        if host.listed or not host.waiting or host.running >= host.limit:
            return
        host.listed = True
        if host.resume_at > self._loop.time():
            self._loop.call_at(host.resume_at, self._relist, name, host)
        else:
            self._turn.append((name, host))

    def _relist(self, name: str, host: Host) -> None:
        host.listed = False
        self._list(name, host)
        self.pump()

    async def _run(self, number: int, name: str, host: Host, task: Any) -> None:
        def rest(seconds: float) -> None:
            host.resume_at = max(host.resume_at, self._loop.time() + seconds)

        try:
            await self._work(self, task, rest)
        finally:
            del self._tasks[number]
            self._finished += 1
            host.running -= 1
            if host.waiting:
                self._list(name, host)
            elif not host.running and host.resume_at <= self._loop.time():
                self._hosts.pop(name, None)
            self.pump()
