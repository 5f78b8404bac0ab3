"""Which rank this process is: read from the environment of torchrun, SLURM or our own launcher."""

import re
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
    if "SLURM_PROCID" in environ and _slurm_started_a_step(environ):
        world = _number(environ, "SLURM_STEP_NUM_TASKS", _number(environ, "SLURM_NTASKS", 1))
        if world <= 1:
            return None
        node = _number(environ, "SLURM_NODEID", 0)
        tasks = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or "1"
        return Place(
            rank=_number(environ, "SLURM_PROCID"),
            world=world,
            local_rank=_number(environ, "SLURM_LOCALID", 0),
            local_world=tasks_on_node(tasks, node),
            node=node,
            master_addr=environ.get("MASTER_ADDR")
            or first_host(environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")),
            master_port=_number(environ, "MASTER_PORT", _port_of_step(environ)),
            launcher="slurm",
        )
    return None


def _slurm_started_a_step(environ: Mapping[str, str]) -> bool:
    """Whether srun started this process. The batch script also sees SLURM_PROCID=0 and SLURM_NTASKS, but no step."""
    return "SLURM_STEP_ID" in environ or "SLURM_STEPID" in environ


def _port_of_step(environ: Mapping[str, str]) -> int:
    """A port of this step and attempt, below the ephemeral ports.

    Jobs that share a node do not meet, nor does a requeued job meet ranks of its last attempt that a cut link kept alive.
    """
    job, step = _number(environ, "SLURM_JOB_ID", 0), _number(environ, "SLURM_STEP_ID", 0)
    return 12000 + (job + 1009 * step + 4001 * _number(environ, "SLURM_RESTART_COUNT", 0)) % 20000


def first_host(nodelist: str) -> str:
    """First host of a SLURM node list.

    >>> first_host("gpu[003-007,012],cpu1")
    'gpu003'
    >>> first_host("n1,n2")
    'n1'
    >>> first_host("rack[1-2]n[08,10]-ib")
    'rack1n08-ib'
    """
    if not nodelist:
        return "127.0.0.1"
    host, rest = "", nodelist
    while True:
        plain = re.match(r"[^,\[]*", rest)
        assert plain is not None  # it matches the empty string too
        host, rest = host + plain.group(), rest[plain.end() :]
        if not rest.startswith("["):
            return host
        inside, _, rest = rest[1:].partition("]")
        host += re.split("[,-]", inside)[0]


def tasks_on_node(tasks: str, node: int) -> int:
    """Tasks on one node, from SLURM's short form.

    >>> [tasks_on_node("4(x2),1", node) for node in range(3)]
    [4, 4, 1]
    """
    counts: list[int] = []
    for part in tasks.split(","):
        form = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if form is None:
            raise UserError(f"SLURM_TASKS_PER_NODE={tasks!r} in the environment is not SLURM's form, such as 4(x2),1")
        counts += [int(form[1])] * int(form[2] or 1)
    return counts[node] if node < len(counts) else counts[-1]


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environ.get(name)
    if value is None or value == "":
        if default is None:
            raise UserError(f"the environment says that this is a rank, but {name} is not set: set it or unset RANK")
        return default
    try:
        return int(value)
    except ValueError:
        raise UserError(f"{name}={value!r} in the environment is not a number: correct or unset it") from None
