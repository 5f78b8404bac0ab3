"""Signs of life of every rank, and who is to blame when one stops giving them.

A thread of each rank writes, every second, a count and where the rank is (step, phase) into the job's key-value store. The
first rank looks at all, the second one at the first. A rank whose count stands still is dead or stopped (SIGSTOP, a
hung host); one that lives, but stays in a step that others have left or wait in, hangs. Either ends the job with a
sentence, on every rank that still can, without a collective.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from configs.errors import FAILED, REQUEUE

BEAT_SECONDS = 1.0
WAITING = ("wait", "update", "forward", "backward")
"""Phases with collectives in them: a rank may stay there because another one hangs."""


START = "its start"


class KeyValues(Protocol):
    """What is used of torch's stores."""

    def set(self, key: str, value: str) -> object: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...


@dataclass
class Beat:
    """The last sign of a rank, and since when (our clock) its count and its place have not changed."""

    count: int = -1
    place: str = ""
    host: str = ""
    count_since: float = field(default_factory=time.monotonic)
    place_since: float = field(default_factory=time.monotonic)


def blame(beats: dict[int, Beat], now: float, dead_after: float, hung_after: float) -> str | None:
    """The sentence about a rank that died or hangs; None while all is well."""
    dead = [rank for rank, beat in beats.items() if now - beat.count_since > dead_after]
    if dead:
        rank = min(dead, key=lambda rank: beats[rank].count_since)
        beat = beats[rank]
        gone = now - beat.count_since
        return f"rank {rank} on {beat.host or 'an unknown host'} has given no sign of life for {gone:.0f} s; it was in {beat.place or 'its start'}"
    # A start may count the tokens of a whole dataset: its collectives have deadlines of their own.
    starting = any(beat.place == START for beat in beats.values())
    if beats and not starting and all(now - beat.place_since > hung_after for beat in beats.values()):
        rank = min(beats, key=lambda rank: (_order(beats[rank].place), rank))
        beat = beats[rank]
        return (
            f"rank {rank} on {beat.host} hangs: it has been in {beat.place} for {now - beat.place_since:.0f} s, "
            f"where the others wait for it"
        )
    return None


def _order(place: str) -> tuple[int, int]:
    """Earlier steps first, and in a step those that are not in a phase with collectives."""
    _, _, rest = place.partition("step ")
    number, _, phase = rest.partition(", ")
    return (int(number) if number.isdigit() else -1, int(phase in WAITING))


class Heart:
    """This rank's sign of life, and its look at the others.

    Args:
        store: a connection of its own (another thread may be blocked in a shared one).
        dead_after, hung_after: seconds without a sign, seconds without progress.
        end: called with the sentence; the default prints it and leaves the process.
    """

    def __init__(
        self,
        store: KeyValues,
        rank: int,
        world: int,
        host: str,
        dead_after: float,
        hung_after: float,
        end: Callable[[str], None] | None = None,
    ):
        self.store, self.rank, self.world, self.host = store, rank, world, host
        # Only who sees all ranks can say that nobody moves.
        self.dead_after, self.hung_after = dead_after, hung_after if rank == 0 else float("inf")
        self._end = end or leave
        self._place = START
        self._others = range(world) if rank == 0 else [0] if rank == 1 else []
        self._beats = {other: Beat() for other in self._others}
        self._over = threading.Event()
        self._answered = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._answered = time.monotonic()
        self._thread.start()
        threading.Thread(target=self._watch_store, name="heartbeat-store", daemon=True).start()

    def _watch_store(self) -> None:
        """The store lives in the first rank (or in torchrun): who asks one that was stopped waits, and cannot say so."""
        while not self._over.wait(BEAT_SECONDS):
            silent = time.monotonic() - self._answered
            if silent > self.dead_after:
                where = self._beats[0].host if 0 in self._beats and self._beats[0].host else "its host"
                self._end(
                    f"rank 0 on {where} has given no sign of life for {silent:.0f} s: the job's store, which it holds, does not answer"
                )
                return

    def at(self, step: int, phase: str) -> None:
        """Say where this rank is."""
        self._place = f"step {step}, {phase}"

    def close(self) -> None:
        """No more signs; the others are told that this is no failure."""
        if not self._over.is_set():
            self._over.set()
            self._thread.join(2 * BEAT_SECONDS)

    def _run(self) -> None:
        count = 0
        while not self._over.wait(BEAT_SECONDS):
            count += 1
            try:
                self.store.set(f"beat/{self.rank}", f"{count}|{self._place}|{self.host}")
                if self.store.check(["verdict"]):
                    return self._end(self.store.get("verdict").decode())
                self._look()
                self._answered = time.monotonic()
            except (RuntimeError, OSError):
                continue  # `_watch_store` counts the seconds
        try:
            self.store.set(f"beat/{self.rank}", f"{count}|over|{self.host}")
        except (RuntimeError, OSError):
            return  # the others are gone already

    def _look(self) -> None:
        now = time.monotonic()
        for rank, beat in self._beats.items():
            if not self.store.check([f"beat/{rank}"]):
                continue
            number, place, host = self.store.get(f"beat/{rank}").decode().split("|")
            if int(number) != beat.count:
                beat.count, beat.count_since = int(number), now
            if place != beat.place:
                beat.place, beat.place_since = place, now
            beat.host = host
        watched = {rank: beat for rank, beat in self._beats.items() if beat.place != "over" and beat.count >= 0}
        sentence = blame(watched, now, self.dead_after, self.hung_after)
        if sentence is not None:
            self.store.set("verdict", sentence)
            self._end(sentence)


def leave(sentence: str) -> None:
    """Say it and end the process: threads that wait in a collective cannot be woken."""
    print(f"looksay: {sentence}; the job ends, its next start resumes", file=sys.stderr, flush=True)
    # Our launcher starts the ranks again by itself; a scheduler is asked to.
    os._exit(FAILED if "LOOKSAY_LAUNCHED" in os.environ else REQUEUE)
