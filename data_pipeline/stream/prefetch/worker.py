"""The worker process: planned rows in, batches out, until its parent is gone. No torch in here.

Started as `python -m data_pipeline.stream.prefetch.worker FD`, where FD is its end of a socket pair. The first message is
the recipe; each further one a micro-step.
"""

import ctypes
import os
import signal
import socket
import sys

from configs.errors import RunError, UserError
from configs.schema import RECIPE, TrainRecipe
from data_pipeline.stream.plan.rows import PlannedStep
from data_pipeline.stream.prefetch.transport import receive, send, send_batch

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when the one that started it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        sys.exit(1)


def main() -> None:
    link = socket.socket(fileno=int(sys.argv[1]))
    die_with_parent(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    try:
        header, _, _ = receive(link)
        maker = _maker(RECIPE.validate_python(header["recipe"]))
        send(link, {"ready": True})
        while True:
            header, body, _ = receive(link)
            planned = PlannedStep.from_bytes(body)
            rows = [planned.row(number) if number >= 0 else None for number in header["rows"]]
            send_batch(link, maker.batch(rows, header["numbers"], planned.denominator))
    except EOFError:
        return
    except (UserError, RunError) as error:
        send(link, {"error": str(error), "kind": type(error).__name__})


def _maker(recipe: object):  # type: ignore[no-untyped-def]
    from data_pipeline.stream.tables import open_sources

    assert isinstance(recipe, TrainRecipe)
    return open_sources(recipe).maker(recipe)


if __name__ == "__main__":
    main()
