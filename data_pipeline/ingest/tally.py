"""What is known of a build so far: counts of each stage, its rate over time, events. Flat in memory, however long.

A tally is filled by the running build, or by the lines that an earlier start of it left in build.jsonl.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

POINTS = 500
"""Most points of a rate curve."""
REASONS = 200
"""Most reject reasons told apart (a user's predicate may invent any number); later ones count as `other`."""
EVENTS, KINDS = 40, 50
"""Events remembered, and kinds of events told apart."""


@dataclass
class Curve:
    """Points (seconds of work, units done, whether a start of the build begins here), thinned as they grow many.

    Units done are sums, so a point that is dropped takes nothing from the rates around it.
    """

    points: list[tuple[float, int, bool]] = field(default_factory=list)
    gap: float = 0.0

    def add(self, seconds: float, done: int, begins: bool = False) -> None:
        last = self.points[-2:]
        if not begins and len(last) == 2 and not last[1][2] and seconds - last[0][0] < self.gap:
            self.points.pop()
        self.points.append((seconds, done, begins))
        if len(self.points) > POINTS:
            self.gap = max(2 * self.gap, 2 * (self.points[-1][0] - self.points[0][0]) / POINTS)
            head, tail = self.points[:-1], self.points[-1:]
            thin = [point for number, point in enumerate(head) if number % 2 == 0 or point[2]]
            self.points = (thin + tail)[-POINTS:]

    def rates(self) -> Iterator[list[tuple[float, float]]]:
        """For each start of the build: (seconds at the end of an interval, units a second in it)."""
        run: list[tuple[float, float]] = []
        for (before, less, _), (now, more, begins) in zip(self.points, self.points[1:], strict=False):
            if begins:
                yield run
                run = []
            elif now > before:
                run.append((now, (more - less) / (now - before)))
        yield run


@dataclass
class Stage:
    """One stage. `done` of `total`, whoever did it; `step`: units done while it was logged, through all starts.

    `earlier` holds the outcomes (kept, bytes, rejected) that former starts logged, till it is known that they count.
    """

    name: str
    unit: str = "row"
    total: int = 0
    done: int = 0
    step: int = 0
    kept: int = 0
    bytes: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    rate: float = 0.0
    seconds: float = 0.0
    finished: bool = False
    curve: Curve = field(default_factory=Curve)
    earlier: tuple[int, int, dict[str, int]] | None = None

    def begin(self, total: int, unit: str, seconds: float) -> None:
        """Once more from the start."""
        self.earlier = (self.kept, self.bytes, self.rejected)
        self.total, self.unit, self.done, self.kept, self.bytes, self.rejected = total, unit, 0, 0, 0, {}
        self.rate, self.seconds, self.finished = 0.0, 0.0, False
        self.curve.add(seconds, self.step, begins=True)

    def count(self, n: int, kept: int, rejected: Mapping[str, int], size: int) -> None:
        """`n` units were done now."""
        self.done += n
        self.step += n
        self._judge(kept, rejected, size)

    def skip(self, n: int) -> None:
        """`n` units were done by a former start: what it logged counts too."""
        self.done += n
        if self.earlier is not None:
            kept, size, rejected = self.earlier
            self._judge(kept, rejected, size)
            self.earlier = None

    def _judge(self, kept: int, rejected: Mapping[str, int], size: int) -> None:
        self.kept += kept
        self.bytes += size
        for reason, number in rejected.items():
            if not number:
                continue
            if reason not in self.rejected and len(self.rejected) >= REASONS:
                reason = "other"
            self.rejected[reason] = self.rejected.get(reason, 0) + number

    @property
    def judged(self) -> int:
        """Rows with an outcome."""
        return self.kept + sum(self.rejected.values())

    @property
    def eta(self) -> float | None:
        """Seconds left at the present rate."""
        return max(0, self.total - self.done) / self.rate if self.rate > 0 else None

    def top(self, count: int) -> list[tuple[str, int]]:
        """The most frequent reject reasons."""
        return sorted(self.rejected.items(), key=lambda pair: (-pair[1], pair[0]))[:count]

    def outcome(self, reasons: int = 2) -> str:
        """`kept 87 %, fetch/timeout 5 %`, of the rows with an outcome; empty without any."""
        if not self.judged:
            return ""
        pairs = [("kept", self.kept), *self.top(reasons)]
        return ", ".join(f"{name} {share(number, self.judged)}" for name, number in pairs)

    def as_line(self) -> dict[str, Any]:
        """The stage's part of a line of build.jsonl."""
        return {
            "stage": self.name,
            "unit": self.unit,
            "done": self.done,
            "total": self.total,
            "step": self.step,
            "rate": round(self.rate, 3),
            "eta": None if self.eta is None else round(self.eta, 1),
            "kept": self.kept,
            "rejected": dict(self.rejected),
            "bytes": self.bytes,
            "stage_seconds": round(self.seconds, 3),
            "finished": self.finished,
        }


@dataclass(frozen=True)
class Event:
    """Something that happened, after `seconds` of work."""

    seconds: float
    stage: str
    kind: str
    details: str


@dataclass
class Tally:
    """A build: `seconds` of work in all its `starts`, `state` running, done or failed (and then why)."""

    name: str
    state: str = "running"
    problem: str = ""
    starts: int = 0
    seconds: float = 0.0
    stages: dict[str, Stage] = field(default_factory=dict)
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=EVENTS))
    kinds: dict[str, int] = field(default_factory=dict)

    def stage(self, name: str) -> Stage:
        return self.stages.setdefault(name, Stage(name))

    def event(self, line: Mapping[str, Any]) -> None:
        """Take in an event: {seconds, event, stage, values}."""
        kind = str(line["event"])
        details = ", ".join(f"{key} {value}" for key, value in line["values"].items())[:300]
        self.events.append(Event(float(line["seconds"]), str(line["stage"] or ""), kind, details))
        if kind not in self.kinds and len(self.kinds) >= KINDS:
            kind = "other"
        self.kinds[kind] = self.kinds.get(kind, 0) + 1

    def replay(self, line: Mapping[str, Any]) -> None:
        """Take in a line of an earlier start. Raises KeyError, TypeError, ValueError where it is none."""
        self.seconds = max(self.seconds, float(line["seconds"]))
        if "run" in line:
            self.starts += line["run"] == "begins"
            return
        if "event" in line:
            self.event(line)
            return
        stage = self.stage(str(line["stage"]))
        stage.unit, stage.done, stage.total = str(line["unit"]), int(line["done"]), int(line["total"])
        stage.kept, stage.bytes, stage.rate = int(line["kept"]), int(line["bytes"]), float(line["rate"])
        stage.rejected = {str(reason): int(count) for reason, count in line["rejected"].items()}
        stage.step, stage.seconds = int(line["step"]), float(line["stage_seconds"])
        stage.finished = line["finished"] is True
        stage.curve.add(float(line["seconds"]), stage.step, begins=line.get("begins") is True)


def share(part: int, whole: int) -> str:
    """Percent as text; a small share is not shown as none, nor a missing one as all."""
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "<0.1 %"
    return f"{percent:.0f} %" if percent in (0, 100) or 1 <= percent <= 99 else f"{min(percent, 99.9):.1f} %"
