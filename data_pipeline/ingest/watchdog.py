"""Ends this process when one picture takes too long or too much memory: C code cannot be interrupted otherwise.

`with watchdog.limit(30): prepare(...)` costs a microsecond; a thread looks ten times a second. What was done is lost
with the process, so its unit is tried again, and then goes through `careful.Careful`, where only a child ends.
"""

import os
import resource
import sys
import threading
import time
from types import TracebackType

WATCHDOG_EXIT = 97
"""Exit code of a process that was ended here."""
INTERVAL = 0.1
SLACK = 10
"""Seconds by the clock, for each second of processor time that is allowed: a starved machine is no bomb."""


def resident_bytes() -> int:
    """Memory of this process that is in RAM now."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # no Linux: the most that it ever was, in bytes on macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Watchdog:
    """Guards one thread at a time. Time is the processor time of that thread: a suspended worker is not at fault."""

    def __init__(self, memory_mb: int) -> None:
        self.memory = memory_mb * 2**20
        self._pid = self._thread_id = self._number = 0
        self._busy = False
        self._seconds = 0.0
        self._clock: int | None = None

    def limit(self, seconds: float) -> "Watchdog":
        """To be entered at once: what happens inside may take `seconds` of processor time."""
        if self._pid != os.getpid():  # the first time, or in a fork, where threads are gone
            self._pid = os.getpid()
            arguments = (self._pid, resident_bytes())
            threading.Thread(target=self._watch, args=arguments, name="watchdog", daemon=True).start()
        thread = threading.get_ident()
        if thread != self._thread_id:
            self._thread_id = thread
            # Asked for by the thread itself: the clock of a thread that has ended must not be asked for.
            self._clock = time.pthread_getcpuclockid(thread) if hasattr(time, "pthread_getcpuclockid") else None
        self._seconds = seconds
        return self

    def __enter__(self) -> None:
        self._number += 1
        self._busy = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._busy = False

    def _spent(self) -> float:
        return time.process_time() if self._clock is None else time.clock_gettime(self._clock)

    def _watch(self, pid: int, before: int) -> None:
        seen, base = -1, before
        start = began = 0.0
        while os.getpid() == pid:
            time.sleep(INTERVAL)
            now = resident_bytes()
            if not self._busy:
                seen, before = -1, now
                continue
            try:
                spent = self._spent()
            except OSError:  # that thread has just ended
                continue
            if self._number != seen:
                seen, base, start, began = self._number, before, spent, time.monotonic()
            self._judge(seen, now - base, spent - start, time.monotonic() - began)
            before = now

    def _judge(self, number: int, grown: int, spent: float, waited: float) -> None:
        why = ""
        if grown > self.memory:
            why = f"{grown >> 20} MiB of memory, more than {self.memory >> 20}"
        elif spent > self._seconds or waited > SLACK * self._seconds:
            why = f"more than {self._seconds:g} s"
        if why and self._busy and self._number == number:
            sys.stderr.write(f"watchdog: decoding one picture took {why}: this worker ends and its unit is retried\n")
            sys.stderr.flush()
            os._exit(WATCHDOG_EXIT)
