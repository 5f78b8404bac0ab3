"""The log folder of a build: OUT/log/build.jsonl, tb/ (TensorBoard) and build.html. It never fails the build.

The first error of any kind (a full disk, a lost store) is said once on stderr, and ends logging. Where OUT is remote,
everything is written to a temporary folder and uploaded from there now and then. What an earlier start of the build
left is read back first, line by line.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tqdm import tqdm

from data_pipeline.ingest.build_page import render
from data_pipeline.ingest.statistics import read_totals
from data_pipeline.ingest.tally import Tally
from data_pipeline.storage import TEMPORARY, exists, is_remote, join, open_stream, put, put_file

FOLDER, LINES, PAGE, BOARD = "log", "build.jsonl", "build.html", "tb"
UPLOAD_SECONDS, UPLOAD_SHARE = 60.0, 20
"""Least time between uploads to a remote output: seconds, and as a multiple of what the last one took."""
WAITING = 1000
"""Lines that may wait for `begin()`; earlier ones are lost."""


class BuildLog:
    """Writes the log of one start of a build. What comes before `begin()` waits, and nothing is written till then.

    Args:
        output: the dataset's folder, local or remote.
        clock: seconds that never go back. wall: seconds since 1970.
    """

    def __init__(self, output: str, clock: Callable[[], float], wall: Callable[[], float]):
        self.output = output if is_remote(output) else os.path.abspath(output)  # Ray's start changes the folder
        self.remote, self.clock, self.wall = is_remote(output), clock, wall
        self.begun = self.stopped = False
        self._folder = ""
        self._waiting: deque[Mapping[str, Any]] = deque(maxlen=WAITING)
        self._board: Any = None
        self._statistics: dict[str, Any] | None = None
        self._uploaded, self._upload_took = 0.0, 0.0

    def read(self, tally: Tally) -> None:
        """Replay what an earlier start left into `tally`. Writes nothing to the output."""
        self._attempt(lambda: self._read(tally))

    def begin(self) -> None:
        """Write from now on."""
        if not self.begun:
            self._attempt(self._begin)

    def line(self, values: Mapping[str, Any]) -> None:
        """Append a line to build.jsonl."""
        if self.begun:
            self._attempt(lambda: self._line(values))
        else:
            self._waiting.append(values)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Append to TensorBoard."""
        if self.begun:
            self._attempt(lambda: self._scalars(values, step))

    def page(self, tally: Tally, *, statistics: bool = False) -> None:
        """Write build.html anew. `statistics`: look again for those of the dataset."""
        if self.begun:
            self._attempt(lambda: self._page(tally, statistics))

    def upload(self, *, now: bool = False) -> None:
        """Bring what is written to a remote output: now, or if it is time."""
        if self.begun and self.remote:
            self._attempt(lambda: self._upload(now))

    def close(self) -> None:
        """Last upload; nothing can be written any more."""
        self.upload(now=True)
        if self._board is not None:
            # Each record was flushed: what fails here has failed before, and was said then.
            with contextlib.suppress(OSError):
                self._board.close()
        if self.remote and self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        self.stopped = True

    def _attempt(self, action: Callable[[], Any]) -> None:
        if self.stopped:
            return
        try:
            action()
        except Exception as error:
            # Any kind: stores fail with types of their own (botocore, aiohttp), and no log is worth a build.
            self.stopped = True
            what = " ".join(str(error).split())[:300]
            tqdm.write(
                f"looksay: the log of {self.output} ends here ({type(error).__name__}: {what}); the build goes on",
                file=sys.stderr,
            )

    def _read(self, tally: Tally) -> None:
        self._folder = tempfile.mkdtemp(prefix="looksay-log-") if self.remote else join(self.output, FOLDER)
        path = os.path.join(self._folder, LINES)
        if self.remote:
            there = join(join(self.output, FOLDER), LINES)
            if exists(there):
                with open_stream(there) as source, open(path, "wb") as sink:
                    shutil.copyfileobj(source, sink)
        if os.path.exists(path):
            _replay(path, tally)

    def _begin(self) -> None:
        board = os.path.join(self._folder, BOARD)
        os.makedirs(board, exist_ok=True)
        for name in os.listdir(self._folder):
            if name.startswith(TEMPORARY):  # a page that a killed build was writing
                os.unlink(os.path.join(self._folder, name))
        _close_line(os.path.join(self._folder, LINES))
        self._board = _new_board(board, self.wall())
        self._statistics = read_totals(self.output)
        self._uploaded, self.begun = self.clock(), True
        while self._waiting:
            self._line(self._waiting.popleft())

    def _line(self, values: Mapping[str, Any]) -> None:
        data = json.dumps(values, default=str).encode() + b"\n"
        with open(os.path.join(self._folder, LINES), "ab") as stream:
            stream.write(data)

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._board.write(Event(wall_time=self.wall(), step=step, summary=summary).SerializeToString())
        self._board.flush()

    def _page(self, tally: Tally, statistics: bool) -> None:
        if statistics:
            self._statistics = read_totals(self.output)
        put(os.path.join(self._folder, PAGE), render(tally, self._statistics, self.wall()).encode())

    def _upload(self, now: bool) -> None:
        began = self.clock()
        if not now and began - self._uploaded < max(UPLOAD_SECONDS, UPLOAD_SHARE * self._upload_took):
            return
        for folder, _, names in os.walk(self._folder):
            for name in sorted(names):
                local = os.path.join(folder, name)
                below = os.path.relpath(local, self._folder).replace(os.sep, "/")
                put_file(join(join(self.output, FOLDER), below), partial(shutil.copyfile, local))
        self._uploaded = self.clock()
        self._upload_took = self._uploaded - began


def _replay(path: str, tally: Tally) -> None:
    """Read an earlier start's lines. A torn one (the kill came while it was written) is passed over."""
    with open(path, "rb") as stream:
        for raw in stream:
            try:
                tally.replay(json.loads(raw))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue


def _close_line(path: str) -> None:
    """End a torn last line, so that the next one is whole."""
    if os.path.exists(path) and os.path.getsize(path):
        with open(path, "rb+") as stream:
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")


def _new_board(folder: str, wall: float) -> Any:
    """A TensorBoard file of this start's own: its records as tensorboard writes them.

    Its EventFileWriter would import tensorflow where that is installed, and print errors of a full disk from a thread.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    start = f"events.out.tfevents.{int(wall):010d}.looksay.{os.getpid()}"
    number = sum(name.startswith(start) for name in os.listdir(folder))
    stream = open(os.path.join(folder, f"{start}.{number}"), "xb")  # noqa: SIM115 -- the board closes it
    board = RecordWriter(stream)
    board.write(Event(wall_time=wall, file_version="brain.Event:2").SerializeToString())
    board.flush()
    return board
