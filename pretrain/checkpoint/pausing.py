"""Named moments at which a test may do something to a process from outside. Nothing happens unless it is asked for.

LOOKSAY_PAUSE_AT=NAME or NAME@RANK: the process makes the file LOOKSAY_PAUSE_FILE and waits, at most PAUSE_SECONDS, until
that file is empty. It chooses only *when*; what is done to the process is done by others.
"""

import os
import time

PAUSE_SECONDS = 60.0


def pause_at(name: str, rank: int) -> None:
    """Wait here if this moment was named."""
    asked, path = os.environ.get("LOOKSAY_PAUSE_AT"), os.environ.get("LOOKSAY_PAUSE_FILE")
    if not asked or not path:
        return
    moment, _, who = asked.partition("@")
    if moment != name or (who and int(who) != rank):
        return
    try:
        with open(path, "x") as stream:
            stream.write(f"{os.getpid()} {rank}")
    except FileExistsError:
        return  # another rank waits there, or it was done already
    end = time.monotonic() + PAUSE_SECONDS
    while time.monotonic() < end and os.path.getsize(path):
        time.sleep(0.01)
