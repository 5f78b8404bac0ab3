"""The background thread: an event loop with the connection pool, the budget and the robots.txt of one worker.

tasks (key, ImageRef) of a `Schedule` -> (key, bytes | FetchFailure, held) in its `ready` queue; `held` is what is to be
given back to the budget once the bytes were taken.
"""

import asyncio
import atexit
import contextlib
import threading
from collections.abc import Callable
from typing import Any

from configs.errors import RunError
from configs.ingest import FetchConfig
from data_pipeline.ingest.fetch.body import Room
from data_pipeline.ingest.fetch.budget import Budget
from data_pipeline.ingest.fetch.client import Client, Rest
from data_pipeline.ingest.fetch.failure import Failed, FetchFailure
from data_pipeline.ingest.fetch.guard import Guard, Network
from data_pipeline.ingest.fetch.pool import Pool, tls_context
from data_pipeline.ingest.fetch.schedule import Schedule
from data_pipeline.ingest.fetch.stored import read_object
from data_pipeline.ingest.fetch.threads import Threads
from data_pipeline.ingest.record import ImageRef

LARGE_BYTES = 256 * 2**20
"""Most bytes of large pictures in memory at once; one picture of `max_bytes` always fits."""

_NAME_THREADS = 64  # look-ups of dead hosts take many seconds each, and no processor
_STORE_THREADS = 16
_CLOSE_SECONDS = 5.0


class Engine:
    """Starts on construction. UserError: `config.ca_bundle` cannot be used."""

    def __init__(self, config: FetchConfig, network: Network | None = None) -> None:
        self._config = config
        self.budget = Budget(max(LARGE_BYTES, config.max_bytes))
        self._names = Threads("looksay-names", _NAME_THREADS)
        self._stores = Threads("looksay-stores", _STORE_THREADS)
        context = tls_context(config.ca_bundle)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="looksay-fetch", daemon=True)
        self._thread.start()
        guard = Guard(config.allow_private, self._names, network)

        async def client() -> Client:
            return Client(config, Pool(config, context, guard), guard, self._stores, self.budget)

        self._client = asyncio.run_coroutine_threadsafe(client(), self._loop).result()
        atexit.register(self.close)  # a worker that ends without it would print of unclosed connections

    def check(self) -> None:
        """Raises RunError: the thread is gone, so nothing more will come."""
        if not self._thread.is_alive():
            raise RunError("the thread that fetches pictures has ended: start the command again")

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have something done in the loop's thread."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def schedule(self) -> Schedule:
        return Schedule(self._loop, self._config.concurrency, self._config.per_host, self._fetch)

    def give_up(self, schedule: Schedule) -> None:
        """End a schedule that nobody takes from any more."""

        def end() -> None:
            for _, _, held in schedule.cancel():
                self.budget.give_back(held)

        self.call(end)

    def close(self) -> None:
        """End what runs, close the connections, end the thread. More than once is fine."""
        atexit.unregister(self.close)
        if not self._thread.is_alive():
            return
        with contextlib.suppress(TimeoutError):  # what hangs ends with the process: the thread is a daemon
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()
        self._names.close()
        self._stores.close()

    async def _close(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    async def _fetch(self, schedule: Schedule, task: tuple[Any, ImageRef], rest: Rest) -> None:
        key, ref = task
        deadline = self._config.deadline
        clock = asyncio.timeout(deadline)
        room = Room(self.budget, clock)
        result: bytes | FetchFailure
        try:
            async with clock:
                result = await self._bytes_of(ref, room, clock, rest)
        except TimeoutError:
            result = FetchFailure("deadline", f"not whole within {deadline:g} s", retryable=True)
        except Failed as failed:
            result = failed.failure
        except Exception as error:
            result = FetchFailure("unexpected", type(error).__name__)
        except asyncio.CancelledError:
            room.release()
            raise
        if isinstance(result, FetchFailure):
            room.release()
        if not schedule.deliver((key, result, room.held)):
            room.release()

    async def _bytes_of(self, ref: ImageRef, room: Room, clock: asyncio.Timeout, rest: Rest) -> bytes:
        part = (ref.offset, ref.size) if ref.size >= 0 else None
        if ref.path[:4].lower() == "http" and ref.path[4:].lower().startswith((":", "s:")):
            return await self._client.fetch(ref.path, part, room, clock, rest)
        return await read_object(ref.path, part, self._config.max_bytes, room, self._stores)
