"""Moving rows between tasks: every task turns its input into one array for each partition; the next ones take columns.

On Ray the arrays lie in its object store, which spills to disk by itself and makes lost ones again by running their
task once more. Without Ray they are temporary files. Either way a process holds the input and the output of one task.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from configs.errors import RunError, UserError
from data_pipeline.storage import TEMPORARY, is_remote

RETRIES = 6
"""Times that Ray starts a task again whose worker or node is lost."""

GET_SECONDS = 3600.0
"""Longest wait for a task: what was on a lost node is made again meanwhile."""

Arrays = Iterable[np.ndarray]
Work = Callable[[Any, Arrays, int], tuple[Any, Sequence[np.ndarray]]]
"""(item, arrays that came in, partitions) -> (a small value for the driver, an array for each partition)."""

Job = tuple[Any, list[Any]]
"""Item and references of arrays."""


class Exchange(Protocol):
    """Runs work. A reference is good for as long as somebody holds it."""

    def run(self, work: Work, jobs: Iterable[Job], partitions: int) -> Iterator[tuple[Any, list[Any]]]:
        """(value, references) of each job, as they are done."""


def columns(rows: list[list[Any]]) -> Iterator[list[Any]]:
    """References by partition; each is let go of here when the next one is asked for."""
    for row in rows:
        row.reverse()
    while rows and rows[0]:
        yield [row.pop() for row in rows]


class Here:
    """In this process, through files in a temporary folder below `folder` (or the system's, where that is remote)."""

    def __init__(self, folder: str):
        where = None
        if not is_remote(folder):
            os.makedirs(folder, exist_ok=True)
            for name in os.listdir(folder):
                if name.startswith(TEMPORARY):  # left behind by a killed process
                    shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
            where = folder
        self.folder = tempfile.mkdtemp(prefix=TEMPORARY, dir=where)
        self._names = itertools.count()

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, work: Work, jobs: Iterable[Job], partitions: int) -> Iterator[tuple[Any, list[Any]]]:
        for item, files in jobs:
            value, arrays = work(item, _Files(files), partitions)
            yield value, [self._store(array) for array in arrays]
            for file in files:
                os.unlink(file)

    def _store(self, array: np.ndarray) -> str:
        path = os.path.join(self.folder, f"{next(self._names)}.npy")
        np.save(path, array, allow_pickle=False)
        return path


class _Files:
    def __init__(self, files: list[str]):
        self.files = files

    def __iter__(self) -> Iterator[np.ndarray]:
        return (np.load(file, allow_pickle=False) for file in self.files)


class OnRay:
    """On the Ray that this process is connected to."""

    def __enter__(self) -> "OnRay":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def run(self, work: Work, jobs: Iterable[Job], partitions: int) -> Iterator[tuple[Any, list[Any]]]:
        import ray

        task = ray.remote(max_retries=RETRIES, num_returns=1 + partitions)(_run)
        width = max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
        coming, flying = iter(jobs), {}  # type: ignore[var-annotated]
        while True:
            for item, refs in itertools.islice(coming, width - len(flying)):
                made = task.remote(work, item, partitions, *refs)
                value, *arrays = made if partitions else [made]
                flying[value] = arrays
            if not flying:
                return
            ready, _ = ray.wait(list(flying), timeout=GET_SECONDS)
            for ref in ready or list(flying)[:1]:  # none in all that time: its value says so
                yield _value(ref), flying.pop(ref)


def _run(work: Work, item: Any, partitions: int, *arrays: np.ndarray) -> Any:
    """Arrays are arguments, not asked for in here: Ray starts no task before they are there, so none waits on a core."""
    value, made = work(item, arrays, partitions)
    return (value, *made) if partitions else value


def _value(ref: Any) -> Any:
    """What a task said; what it says to a person is raised without Ray's traceback around it."""
    import ray

    try:
        return ray.get(ref, timeout=10)
    except ray.exceptions.GetTimeoutError:
        raise RunError(
            f"a step of dedup did not end within {GET_SECONDS:.0f} s: look at Ray's nodes; the same command goes on"
        ) from None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError | RunError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise RunError(
            f"a step of dedup was lost {RETRIES} times ({type(error).__name__}): look for memory that runs out on Ray's "
            "nodes; the same command goes on"
        ) from None
