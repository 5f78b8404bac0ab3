"""The same `prepare` in a child process with limits, for a picture that may have killed the worker before.

```
prepare(data) --u32 JSON, u64 data--> child (careful_child.py: RLIMIT_AS, RLIMIT_CPU) --the same way--> Stored
```
Nothing is pickled. The child gets no environment but the paths that it needs: it holds no credentials.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from configs.ingest import ImagesConfig
from data_pipeline.ingest.decode import Stored
from data_pipeline.ingest.header import PictureError
from data_pipeline.sample import ImageInfo

KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "HOME", "TMPDIR", "SYSTEMROOT")
STARTED = 60.0
"""Seconds that a child may take to start."""
MOST_HEADER, MOST_PART = 2**20, 2**32


class _ChildError(Exception):
    """The child ended before it answered."""


class Careful:
    """Owns the child: started with the first picture, and again after one that it did not survive."""

    def __init__(self, seconds: float = 30.0, memory_mb: int = 2048) -> None:
        self.seconds, self.memory_mb = seconds, memory_mb
        self._child: subprocess.Popen[bytes] | None = None
        self._late = False

    def __enter__(self) -> "Careful":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def prepare(self, data: bytes, config: ImagesConfig, canvas: tuple[int, int] | None = None) -> Stored:
        """As `decode.prepare`, in at most `seconds` of processor time, and four times and ten seconds by the clock.

        Raises:
            PictureError: as there, and `timeout`, `memory`, `crashed`.
        """
        request = {"config": config.model_dump(mode="json"), "canvas": canvas}
        for last in (False, True):
            try:
                answer, parts = self._ask(request, data)
                break
            except _ChildError:
                error = self._autopsy()
                # A signal that nothing here explains may have come from outside: the picture gets a second chance.
                if error.reason == "timeout" or last:
                    raise error from None
        if "reason" in answer:
            raise PictureError(answer["reason"], answer["detail"])
        height, width = answer["shape"]
        pixels = np.frombuffer(parts[1], np.uint8).reshape(height, width, 3)
        return Stored(parts[0], answer["format"], ImageInfo(width, height), pixels)

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # what it had not read yet

    def _ask(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], list[bytes]]:
        fresh = self._child is None
        child = self._child = self._child or self._start()
        self._late = False
        assert child.stdin and child.stdout
        timer = threading.Timer(4 * self.seconds + 10 + (STARTED if fresh else 0), self._end_late, (child,))
        timer.daemon = True
        timer.start()
        try:
            send(child.stdin, request, [data])
            return receive(child.stdout)
        except (OSError, EOFError, ValueError) as error:
            raise _ChildError(str(error)) from None
        finally:
            timer.cancel()

    def _end_late(self, child: "subprocess.Popen[bytes]") -> None:
        self._late = True
        child.kill()

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        root = str(Path(__file__).resolve().parents[2])
        environment |= {"PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)]), "OPENBLAS_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "data_pipeline.ingest.careful_child", str(self.seconds), str(self.memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def _autopsy(self) -> PictureError:
        """Why the child is dead, as far as its exit says."""
        child, late = self._child, self._late
        assert child
        try:
            code = child.wait(5)
        except subprocess.TimeoutExpired:
            self.close()
            return PictureError("crashed", "decoding it gave nonsense for an answer")
        self.close()
        if late or code == -signal.SIGXCPU:
            return PictureError("timeout", f"decoding it takes more than {self.seconds:g} s")
        if code == -signal.SIGKILL:
            return PictureError("memory", "the system ended its decoding, as it does when memory runs out")
        return PictureError("crashed", f"decoding it ended with {_named(code)}")


def _named(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


def send(pipe: IO[bytes], header: dict[str, Any], parts: list[bytes]) -> None:
    """A JSON header, which says how long each part is, and the parts."""
    body = json.dumps({**header, "lengths": [len(part) for part in parts]}).encode()
    pipe.write(len(body).to_bytes(4, "big") + body)
    for part in parts:
        pipe.write(part)
    pipe.flush()


def receive(pipe: IO[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """What `send` sent. EOFError when the other side has ended, ValueError when it is not to be believed."""
    length = int.from_bytes(_exactly(pipe, 4), "big")
    if length > MOST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header = json.loads(_exactly(pipe, length))
    if any(size > MOST_PART for size in header["lengths"]):
        raise ValueError(f"parts of {header['lengths']} bytes")
    return header, [_exactly(pipe, size) for size in header["lengths"]]


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError(f"{len(data)} of {size} bytes")
    return data
