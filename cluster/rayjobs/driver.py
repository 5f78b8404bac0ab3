"""What a Ray job runs: `python -m cluster.rayjobs.driver [OPTIONS] -- WORDS`.

Without --nodes the words run here, on the head, and find the cluster by RAY_ADDRESS. With --nodes they run on so many nodes,
one launcher each. What is printed goes to Ray's log of the job and to a file of the job's folder.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from cluster.rayjobs.child import Child
from cluster.rayjobs.starts import Ask, Stop, run_on_nodes
from configs.errors import NO_REQUEUE, RunError

POLL_SECONDS = 0.1
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class Tee:
    """Prints, and appends to a file if it can."""

    def __init__(self, path: Path | None):
        self._file: TextIO | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            self(f"the log {path} cannot be written here ({error.strerror}): Ray's own log of the job has it all")

    def __call__(self, text: str) -> None:
        for stream in (sys.stdout, self._file):
            if stream is not None:
                with contextlib.suppress(OSError):
                    print(text, file=stream, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run the job. Returns the exit code of its command."""
    space = _parser().parse_args(arguments)
    job = job_of(os.environ)
    say, stop = Tee(Path(space.folder) / f"ray-{job}.out" if space.folder else None), Stop()
    _heed_signals(stop)
    try:
        for before in space.after:
            _wait_for(before, say, stop)
        return _run(space, job, say, stop)
    except RunError as error:
        say(f"looksay: {error}")
        return int(getattr(error, "exit_code", 1))


def _heed_signals(stop: Stop) -> None:
    def on_signal(*_: object) -> None:
        stop.asked = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cluster.rayjobs.driver")
    parser.add_argument("--cwd", help="where the words run; none: where Ray started this")
    parser.add_argument("--folder", help="of the log")
    parser.add_argument("--after", action="append", default=[], help="id of a job that has to end well first")
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--fewest", type=int)
    parser.add_argument("--ranks", type=int, default=1, help="of a node")
    parser.add_argument("--cpus", type=float, default=1, help="of a node")
    parser.add_argument("--gpus", type=float, default=0, help="of a node")
    parser.add_argument("--wait", type=float, default=600.0, help="seconds to wait for nodes")
    parser.add_argument("--most", type=int, default=1000, help="starts again")
    parser.add_argument("words", nargs="+")
    return parser


def _run(space: argparse.Namespace, job: str, say: Callable[[str], None], stop: Stop) -> int:
    if space.nodes is None:
        if space.cwd is not None and not os.path.isdir(space.cwd):
            raise _Refused(
                f"the head has no folder {space.cwd}: submit from a folder on a file system that all nodes see"
            )
        return run_here(space.words, space.cwd, say, stop)
    bundle = {"CPU": space.cpus, **({"GPU": space.gpus} if space.gpus else {})}
    fewest = min(space.fewest or space.nodes, space.nodes)
    ask = Ask(tuple(space.words), space.cwd, job, space.nodes, space.ranks, bundle, space.most, fewest, space.wait)
    import ray

    ray.init(log_to_driver=False, logging_level="error")
    _heed_signals(stop)  # again: Ray's own handler of SIGTERM leaves at once, and ranks without a checkpoint
    try:
        return run_on_nodes(ask, say, stop)
    finally:
        ray.shutdown()


class _Refused(RunError):
    exit_code = NO_REQUEUE


def run_here(words: Sequence[str], cwd: str | None, say: Callable[[str], None], stop: Stop) -> int:
    """Run a command as a process of this machine."""
    try:
        child = Child(words, cwd)
    except OSError as error:
        raise _Refused(f"{words[0]} does not start here ({error.strerror}): set scheduler.looksay") from None
    told = False
    while True:
        if (
            stop.asked and not told
        ):  # Ray signals the job's processes too, but not where this is not the job's own driver
            told = True
            child.signal(signal.SIGTERM)
        code, text = child.look()
        if text:
            say(text.removesuffix("\n"))
        if code is not None:
            return code
        time.sleep(POLL_SECONDS)


def _wait_for(before: str, say: Callable[[str], None], stop: Stop) -> None:
    """Wait until another job of this cluster has ended well.

    Raises:
        RunError: it has not, or is unknown.
    """
    from ray.job_submission import JobSubmissionClient

    client: Any = JobSubmissionClient()
    told = False
    while not stop.asked:
        try:
            status = str(client.get_job_status(before).value)
        except RuntimeError:
            raise _Refused(f"the cluster knows no job {before}, after which this one was to begin") from None
        if status == "SUCCEEDED":
            return
        if status in ENDED:
            raise _Refused(f"job {before} ended as {status}, so this one, which was to come after it, does not begin")
        if not told:
            say(f"waiting for job {before}")
            told = True
        time.sleep(2.0)
    raise _Refused(f"stopped while it waited for job {before}")


def job_of(environ: Mapping[str, str]) -> str:
    """The id of this job, as Ray tells its driver."""
    try:
        told = json.loads(environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    except ValueError:
        told = {}
    return str(told.get("metadata", {}).get("job_submission_id") or "job")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
