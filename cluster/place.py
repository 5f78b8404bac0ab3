"""Which rank this process is: read from the environment of torchrun, SLURM or our own launcher."""

from collections.abc import Mapping
from dataclasses import dataclass

from configs.errors import UserError


@dataclass(frozen=True)
class Place:
    """One rank's place in the job. `launcher` is who started it: torchrun (or alike) or slurm."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    node: int
    master_addr: str
    master_port: int
    launcher: str


def find_place(environ: Mapping[str, str]) -> Place | None:
    """The place that the environment describes; None where nobody launched us as a rank.

    Raises:
        UserError: the environment is that of a rank, but a variable is missing or not a number.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        local_world = _number(environ, "LOCAL_WORLD_SIZE", 1)
        return Place(
            rank=_number(environ, "RANK"),
            world=_number(environ, "WORLD_SIZE"),
            local_rank=_number(environ, "LOCAL_RANK", 0),
            local_world=local_world,
            node=_number(environ, "GROUP_RANK", _number(environ, "RANK") // max(1, local_world)),
            master_addr=environ.get("MASTER_ADDR", "127.0.0.1"),
            master_port=_number(environ, "MASTER_PORT"),
            launcher="torchrun",
        )
    if "SLURM_PROCID" in environ and _number(environ, "SLURM_NTASKS", 1) > 1:
        return Place(
            rank=_number(environ, "SLURM_PROCID"),
            world=_number(environ, "SLURM_NTASKS"),
            local_rank=_number(environ, "SLURM_LOCALID", 0),
            local_world=_number(environ, "SLURM_NTASKS_PER_NODE", 1),
            node=_number(environ, "SLURM_NODEID", 0),
            master_addr=first_host(environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")),
            # A port of the job's own: two jobs that share a node must not meet.
            master_port=_number(environ, "MASTER_PORT", 20000 + _number(environ, "SLURM_JOB_ID", 0) % 20000),
            launcher="slurm",
        )
    return None


def first_host(nodelist: str) -> str:
    """First host of a SLURM node list.

    >>> first_host("gpu[003-007,012],cpu1")
    'gpu003'
    >>> first_host("n1,n2")
    'n1'
    """
    if not nodelist:
        return "127.0.0.1"
    head, bracket, rest = nodelist.partition("[")
    if not bracket or "," in head:
        return nodelist.split(",", 1)[0]
    inside, _, tail = rest.partition("]")
    return head + inside.split(",")[0].split("-")[0] + tail.split(",", 1)[0]


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environ.get(name)
    if value is None or value == "":
        if default is None:
            raise UserError(f"the environment says that this is a rank, but {name} is not set: set it or unset RANK")
        return default
    try:
        return int(value.split("(", 1)[0])
    except ValueError:
        raise UserError(f"{name}={value!r} in the environment is not a number: correct or unset it") from None
