"""Progress of a build, on the driver: what tasks did -> a bar on stderr, and the log folder beside the dataset.

```
with Progress(output, name, bar=True) as progress:
    with progress.stage("read", rows, "row"):
        progress.skip(1024)
        progress.advance(256, kept=240, rejected={"fetch/timeout": 16}, bytes=9_000_000)
        progress.note("lost", task="17", error="NodeDiedError")
```
"""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tqdm import tqdm

from data_pipeline.ingest.build_log import BuildLog
from data_pipeline.ingest.tally import Stage, Tally

BAR_SECONDS, LINE_SECONDS, PAGE_SECONDS = 0.5, 2.0, 10.0
"""Least time between two drawings of the bar, lines of build.jsonl, and pages (with TensorBoard's scalars)."""
SMOOTH_SECONDS = 20.0
"""Time over which the logged rate forgets."""
MOST_TAGS = 20
"""Reject reasons that have a curve in TensorBoard."""
MOST_PRINTED = 100
"""Events shown on stderr; all are in build.jsonl."""


@dataclass
class _Running:
    """A stage that goes on: where it began, and where its rate was measured last."""

    stage: Stage
    bar: Any
    began: float
    first: int
    seconds: float
    step: int


class Progress:
    """What a build says while it works. Called by one thread; `advance` costs about a microsecond.

    Args:
        output: the dataset's folder; its `log/` is written. name: of the recipe.
        bar: show bars and events on stderr.
        held: write nothing before `release()`: for a build that has to find out first whether the folder is its own.
        clock: seconds that never go back. wall: seconds since 1970.
    """

    def __init__(
        self,
        output: str,
        name: str,
        *,
        bar: bool,
        held: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.tally = Tally(name)
        self._bar, self._held, self._clock, self._wall = bar, held, clock, wall
        self._log = BuildLog(output, clock, wall)
        self._running: list[_Running] = []
        self._began, self._before, self._printed = clock(), 0.0, 0
        self._next = self._next_line = self._next_page = 0.0

    def __enter__(self) -> "Progress":
        self._log.read(self.tally)
        self._before = self.tally.seconds
        self.tally.starts += 1
        self._line({"run": "begins", "name": self.tally.name})
        if not self._held:
            self.release()
        return self

    def release(self) -> None:
        """Begin to write: first what was held back."""
        self._log.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Says how the build ended, also where that is an exception (which goes on)."""
        self.tally.state = "done" if error is None else "failed"
        self.tally.problem = "" if error is None else f"{type(error).__name__}: {error}"[:1000]
        self._line({"run": self.tally.state, "error": self.tally.problem, "rss": driver_rss()})
        self._log.page(self.tally, statistics=True)
        self._log.close()

    @contextlib.contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[None]:
        """A stage of `total` units, with a bar of its own. Another may run within it.

        A stage that is left by an exception stays unfinished in the log.
        """
        stage = self.tally.stage(name)
        began = self._seconds()
        stage.begin(total, unit, began)
        bar = tqdm(
            total=total,
            unit=f" {unit}",
            desc=name,
            disable=not self._bar,
            file=sys.stderr,
            mininterval=0,
            miniters=1,
            dynamic_ncols=True,
        )
        running = _Running(stage, bar, began, stage.step, began, stage.step)
        self._running.append(running)
        self._line({**stage.as_line(), "begins": True})
        self._next_line = self._clock() + LINE_SECONDS
        try:
            yield
            stage.finished = True
        finally:
            self._running.pop()
            self._draw(running)
            bar.close()
            self._measure(running)
            stage.rate = (stage.step - running.first) / stage.seconds if stage.seconds > 0 else 0.0
            self._line({**stage.as_line(), "rss": driver_rss()})
            self._publish(stage)

    def advance(self, n: int, *, kept: int = 0, rejected: Mapping[str, int] = {}, bytes: int = 0) -> None:
        """`n` more units of the current stage are done; `advance(0)` says that the driver is alive.

        `kept` rows and `rejected` ones by "stage/reason" are outcomes that became known with them.
        """
        running = self._running[-1]
        running.stage.count(n, kept, rejected, bytes)
        self._tick(running)

    def skip(self, n: int) -> None:
        """`n` units of the current stage were done by an earlier start: they count, with what it logged of them, but
        say nothing about the rate."""
        running = self._running[-1]
        running.stage.skip(n)
        bar = running.bar
        if self._bar:
            bar.n, bar.initial, bar.last_print_n = bar.n + n, bar.initial + n, bar.last_print_n + n
        self._tick(running)

    def _tick(self, running: _Running) -> None:
        """Draw, log and publish what it is time for."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + BAR_SECONDS
        self._draw(running)
        if now >= self._next_line:
            self._next_line = now + LINE_SECONDS
            self._measure(running)
            self._line({**running.stage.as_line(), "rss": driver_rss()})
        if now >= self._next_page:
            self._publish(running.stage)

    def note(self, text: str, /, **values: Any) -> None:
        """An event. `text`: a short stable phrase, by which events are counted; what is special of this one: `values`."""
        stage = self._running[-1].stage.name if self._running else None
        self.tally.event(self._line({"event": text, "stage": stage, "values": values}))
        if self._bar and self._printed < MOST_PRINTED:
            self._printed += 1
            details = ", ".join(f"{key} {value}" for key, value in values.items())
            last = " (more events are in log/build.jsonl only)" if self._printed == MOST_PRINTED else ""
            tqdm.write(f"{text}{': ' if details else ''}{details}{last}", file=sys.stderr)

    def _seconds(self) -> float:
        """Seconds of work in all starts of the build."""
        self.tally.seconds = self._before + self._clock() - self._began
        return self.tally.seconds

    def _line(self, values: Mapping[str, Any]) -> dict[str, Any]:
        line = {"time": round(self._wall(), 3), "seconds": round(self._seconds(), 3), **values}
        self._log.line(line)
        return line

    def _draw(self, running: _Running) -> None:
        if not self._bar:
            return
        running.bar.set_postfix_str(running.stage.outcome(), refresh=False)
        if not running.bar.update(running.stage.done - running.bar.n):
            running.bar.refresh()

    def _measure(self, running: _Running) -> None:
        """The rate since the last measure, mixed into the one before."""
        stage, seconds = running.stage, self._seconds()
        stage.seconds = seconds - running.began
        passed = seconds - running.seconds
        if passed > 0:
            rate = (stage.step - running.step) / passed
            fresh = 1.0 if running.seconds == running.began else 1 - math.exp(-passed / SMOOTH_SECONDS)
            stage.rate += fresh * (rate - stage.rate)
            stage.curve.add(seconds, stage.step)
            running.seconds, running.step = seconds, stage.step

    def _publish(self, stage: Stage) -> None:
        """TensorBoard's scalars; the page and the upload if it is time."""
        values = {"rate": stage.rate, "done": stage.done, "driver_rss_mb": driver_rss() / 2**20}
        if stage.judged:
            values |= {"kept_share": stage.kept / stage.judged}
            values |= {f"rejected/{reason}": count for reason, count in stage.top(MOST_TAGS)}
        self._log.scalars({f"{stage.name}/{name}": float(value) for name, value in values.items()}, stage.step)
        now = self._clock()
        if now >= self._next_page:
            self._next_page = now + PAGE_SECONDS
            self._log.page(self.tally)
        self._log.upload()


def driver_rss() -> int:
    """Bytes of memory that this process holds; where the system does not say, the most it ever held."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
