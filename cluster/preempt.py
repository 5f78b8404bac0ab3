"""When to stop: signals and the end of the job's time. A signal only sets a flag; a second one leaves at once."""

import os
import signal
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any

from configs.errors import REQUEUE, UserError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
REST_SECONDS = 2.0
"""A second signal within this time is the same one, sent twice (to the group and to the process)."""


def seconds_of(text: str) -> float:
    """A time span as schedulers write it: seconds, M:S, H:M:S or D-H:M:S.

    >>> [seconds_of(text) for text in ("90", "1:30", "2:00:00", "1-00:00:00")]
    [90.0, 90.0, 7200.0, 86400.0]
    """
    days, _, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts) or len(parts) > 3 or ("-" in text and not days.isdigit()):
        raise UserError(f"{text!r} is not a time such as 90, 1:30, 2:00:00 or 1-00:00:00")
    total = 0
    for part in parts:
        total = 60 * total + int(part)
    return float(total + 86400 * int(days or 0))


def end_of_job(environ: Mapping[str, str], limit_seconds: float | None, now: float) -> float | None:
    """When this job's time is over (seconds of the epoch): by `limit_seconds` from now, or by SLURM's own."""
    ends = [now + limit_seconds] if limit_seconds is not None else []
    if environ.get("SLURM_JOB_END_TIME", "").isdigit():
        ends.append(float(environ["SLURM_JOB_END_TIME"]))
    return min(ends, default=None)


class Stop:
    """Whether this process was asked to stop. Use as a context: handlers are put back at its end.

    Args:
        end: when the job's time is over; `needs` seconds before it is like a signal.
    """

    def __init__(self, end: float | None = None):
        self.end, self.needs = end, 30.0
        self.reason: str | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.reason is None:
            self.reason, self._since = f"signal {signal.Signals(number).name}", time.monotonic()
        elif time.monotonic() - self._since > REST_SECONDS:
            # Whoever asks twice does not wait for a step: what is committed stays, the rest is trained again.
            os._exit(REQUEUE)

    @property
    def asked(self) -> bool:
        if self.reason is None and self.end is not None and time.time() > self.end - self.needs:
            self.reason = "the end of the job's time"
        return self.reason is not None
