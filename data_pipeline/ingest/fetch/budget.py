"""A bound on the bytes of large pictures that are in memory at once: requests for room -> turns, first come first."""

import asyncio
from collections import deque


class Budget:
    """`total` bytes. Lives in one event loop. Small pictures do not ask: their number is bounded.

    Each takes all it may need in one go, so two that wait for more than is left cannot hold each other up.
    """

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def taken(self) -> int:
        return self._total - self._free

    async def take(self, size: int) -> int:
        """Wait for room; returns what to give back."""
        size = min(size, self._total)
        if not self._waiting and size <= self._free:
            self._free -= size
            return size
        turn = asyncio.get_running_loop().create_future()
        entry = (size, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            elif turn.done() and not turn.cancelled():
                self._free += size
            self._serve()
            raise
        return size

    def give_back(self, size: int) -> None:
        self._free += size
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if turn.done():  # given up: its task has not run yet
                self._waiting.popleft()
            elif size <= self._free:
                self._waiting.popleft()
                self._free -= size
                turn.set_result(None)
            else:
                return
