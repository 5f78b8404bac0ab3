"""The child of `careful.py`: requests on standard input, answers on standard output, until the input ends.

`python -m data_pipeline.ingest.careful_child SECONDS MEMORY_MB`. Address space is limited to what the libraries take
plus MEMORY_MB, processor time to SECONDS for each picture, after which the kernel ends this process.
"""

import math
import os
import resource
import sys
from typing import IO, Any

from configs.ingest import ImagesConfig
from data_pipeline.ingest.careful import receive, send
from data_pipeline.ingest.decode import prepare
from data_pipeline.ingest.header import PictureError
from data_pipeline.ingest.resize import opencv


def main(seconds: float, memory_mb: int) -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints does not get among the answers
    opencv()
    import simplejpeg  # noqa: F401  (loaded before memory gets tight)

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(memory_mb)
    while True:
        try:
            request, (data,) = receive(sys.stdin.buffer)
        except EOFError:
            return
        _limit_time(seconds)
        _answer(answers, request, data)


def _answer(pipe: IO[bytes], request: dict[str, Any], data: bytes) -> None:
    canvas = request["canvas"]
    try:
        stored = prepare(data, ImagesConfig.model_validate(request["config"]), tuple(canvas) if canvas else None)
        pixels = stored.pixels.tobytes()
    except PictureError as error:
        send(pipe, {"reason": error.reason, "detail": str(error)}, [])
        return
    except MemoryError:
        send(pipe, {"reason": "memory", "detail": "decoding it takes more memory than is allowed"}, [])
        return
    send(pipe, {"format": stored.format, "shape": stored.pixels.shape[:2]}, [stored.data, pixels])


def _limit_memory(memory_mb: int) -> None:
    try:
        with open("/proc/self/statm", "rb") as file:
            base = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # no Linux: time is limited all the same
        return
    limit = base + memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_time(seconds: float) -> None:
    """From now on. The kernel counts whole seconds: up to one more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.floor(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
