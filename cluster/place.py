"""Which rank or node this process is: read from the environment of torchrun, SLURM, Ray or our own launcher.

Under `looksay submit` SLURM or Ray starts one launcher a node, which starts ranks; these get torchrun's variables.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.hostlist import first_host, hosts_of, tasks_on_node
from configs.errors import UserError

RANKS_PER_NODE = "LOOKSAY_RANKS_PER_NODE"
"""Set by the script of `looksay submit`: this process is to start so many ranks, as all the job's nodes do."""
HOSTS, NODE, JOB, ATTEMPT = "LOOKSAY_HOSTS", "LOOKSAY_NODE", "LOOKSAY_JOB", "LOOKSAY_ATTEMPT"
"""Set for the launcher of a node by whoever placed it (Ray's driver), where SLURM's variables do not say it."""


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


@dataclass(frozen=True)
class Node:
    """One node of a job, on which this process starts `ranks` ranks. `attempt` names this start of the job."""

    node: int
    nodes: int
    ranks: int
    hosts: tuple[str, ...]
    master_addr: str
    master_port: int
    job: str
    attempt: str

    @property
    def world(self) -> int:
        return self.nodes * self.ranks

    @property
    def host(self) -> str:
        return self.hosts[self.node]


def find_node(environ: Mapping[str, str]) -> Node | None:
    """The node that this process launches ranks on, if a script of `looksay submit` started it; else None.

    Raises:
        UserError: a variable is missing or not a number.
    """
    if RANKS_PER_NODE not in environ or "RANK" in environ:
        return None
    if HOSTS in environ:
        return _placed_node(environ)
    step = _slurm_started_a_step(environ)
    hosts = hosts_of(environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")) if step else []
    hosts, node = hosts or ["127.0.0.1"], _number(environ, "SLURM_NODEID", 0) if step else 0
    if node >= len(hosts):
        raise UserError(f"SLURM_NODEID={node} in the environment is beyond the {len(hosts)} nodes of {hosts[0]}, ...")
    job = environ.get("SLURM_JOB_ID", "0")
    return Node(
        node=node,
        nodes=len(hosts),
        ranks=_number(environ, RANKS_PER_NODE),
        hosts=tuple(hosts),
        master_addr=environ.get("MASTER_ADDR") or hosts[0],
        master_port=_number(environ, "MASTER_PORT", _port_of_step(environ)),
        job=job,
        attempt=f"{job}.{environ.get('SLURM_RESTART_COUNT') or 0}",
    )


def node_environment(node: Node) -> dict[str, str]:
    """What tells a launcher that it is this node; `find_node` reads it back."""
    return {
        RANKS_PER_NODE: str(node.ranks),
        HOSTS: ",".join(node.hosts),
        NODE: str(node.node),
        JOB: node.job,
        ATTEMPT: node.attempt,
        "MASTER_ADDR": node.master_addr,
        "MASTER_PORT": str(node.master_port),
    }


def _placed_node(environ: Mapping[str, str]) -> Node:
    hosts, node = environ[HOSTS].split(","), _number(environ, NODE)
    if not 0 <= node < len(hosts):
        raise UserError(f"{NODE}={node} in the environment is beyond the {len(hosts)} nodes of {HOSTS}")
    return Node(
        node=node,
        nodes=len(hosts),
        ranks=_number(environ, RANKS_PER_NODE),
        hosts=tuple(hosts),
        master_addr=environ.get("MASTER_ADDR") or hosts[0],
        master_port=_number(environ, "MASTER_PORT"),
        job=environ.get(JOB, "0"),
        attempt=environ.get(ATTEMPT) or environ.get(JOB, "0"),
    )


def world_of(environ: Mapping[str, str], alone: int) -> int:
    """Ranks of the job; `alone` where nobody launched us."""
    node, place = find_node(environ), find_place(environ)
    return node.world if node is not None else place.world if place is not None else alone


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
    if "SLURM_PROCID" in environ and RANKS_PER_NODE not in environ and _slurm_started_a_step(environ):
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
