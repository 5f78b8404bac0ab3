"""A command as a job, and what a scheduler knows about one."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Job:
    """One command that a scheduler is to run.

    `words` are those of `looksay` without the word itself; `{task}` or `{task:05}` in them is the number of an array's task.
    `folder` holds script and log; `shown` is the command that made this job. `own_ray_mb`: the nodes form a Ray of their own for
    it, with an object store of so many MiB each.
    """

    name: str
    words: tuple[str, ...]
    folder: str
    cwd: str
    shown: str
    nodes: int = 1
    ranks_per_node: int | None = None
    array: str | None = None
    after: tuple[str, ...] = ()
    own_ray_mb: int | None = None


@dataclass(frozen=True)
class Submitted:
    """A job that a scheduler took. `log` is the path of its output, `follow` a command that shows it."""

    id: str
    log: str
    follow: str


@dataclass(frozen=True)
class State:
    """What a scheduler says of a job. `state` is its own word (PENDING, RUNNING, ...); None: it knows nothing any more."""

    id: str
    state: str | None
    reason: str = ""
    restarts: int = 0
    nodes: str = ""
    run_seconds: float | None = None
    limit_seconds: float | None = None

    @property
    def waits_or_runs(self) -> bool:
        return self.state in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "STOPPED")


class Scheduler(Protocol):
    """What `looksay submit | status | cancel` ask of a scheduler."""

    @property
    def where(self) -> dict[str, str]:
        """What `status` and `cancel` need to find it again."""

    def render(self, job: Job) -> str:
        """The script, for people and for the scheduler."""

    def check(self, job: Job) -> None:
        """Raises UserError where the scheduler is known not to take this job."""

    def submit(self, job: Job, script: str) -> Submitted:
        """Hand the script file over."""

    def states(self, ids: list[str]) -> dict[str, State]:
        """What is known of jobs, by id."""

    def cancel(self, ids: list[str]) -> None:
        """End jobs that wait or run."""
