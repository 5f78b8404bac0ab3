"""plan.log: the start state of every window that was planned, a line each, in order. Any of them is found by bisection."""

import json
from pathlib import Path
from typing import Any

from configs.errors import UserError


class PlanLog:
    """The log of a run.

    Args:
        write: append to it; only one process of a run does.
    """

    def __init__(self, path: str | Path, fingerprint: str, *, write: bool):
        self.path, self.fingerprint, self.write = Path(path), fingerprint, write
        self._last = self._last_window() if self.path.exists() else -1

    def append(self, window: int, start: dict[str, Any]) -> None:
        """Keep a window's start, unless it is there."""
        if not self.write or window <= self._last:
            return
        line = json.dumps({"window": window, "fingerprint": self.fingerprint, **start}, separators=(",", ":"))
        with self.path.open("ab+") as stream:
            if stream.tell():
                stream.seek(-1, 2)
                if stream.read(1) != b"\n":
                    line = "\n" + line  # the last line of a killed run is torn: this one starts anew
            stream.write(line.encode() + b"\n")
        self._last = window

    def nearest(self, window: int) -> tuple[int, dict[str, Any]] | None:
        """The last window up to `window` that is in the log, and its start.

        Raises:
            UserError: it was planned from other data.
        """
        if not self.path.exists():
            return None
        with self.path.open("rb") as stream:
            stream.seek(0, 2)
            low, high, found = 0, stream.tell(), None
            while low < high:  # the line that begins at or after `middle`, if any begins before `high`
                middle = (low + high) // 2
                at, line = self._line(stream, middle, high)
                if line is None:
                    high = middle
                elif line["window"] <= window:
                    low, found = at, line
                else:
                    high = middle
        if found is None:
            return None
        if found.pop("fingerprint") != self.fingerprint:
            raise UserError(
                f"{self.path} belongs to another plan: the data or its packing changed since; start a new run"
            )
        return int(found.pop("window")), found

    @staticmethod
    def _line(stream: Any, start: int, end: int) -> tuple[int, dict[str, Any] | None]:
        """(where the next begins, the first whole line that begins in start ... end - 1)."""
        stream.seek(start)
        if start:
            stream.seek(start - 1)
            stream.readline()  # the rest of the line before; nothing where one begins just here
        while stream.tell() < end:
            line = stream.readline()
            try:
                found = json.loads(line)
                if isinstance(found, dict) and {"window", "fingerprint"} <= found.keys():
                    return stream.tell(), found
            except ValueError:
                continue  # torn by a kill, or blank: its window stands again further down
        return end, None

    def _last_window(self) -> int:
        with self.path.open("rb") as stream:
            stream.seek(0, 2)
            end = stream.tell()
            stream.seek(max(0, end - (1 << 16)))
            last = -1
            for line in stream.read().split(b"\n"):
                try:
                    last = max(last, int(json.loads(line)["window"]))
                except (ValueError, KeyError, TypeError):
                    continue  # the first may be the end of a line, the last may be torn
        return last
