"""A launcher on each of so many nodes of a Ray cluster, or a sentence that says what is missing."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.place import Node
from cluster.rayjobs.launcher import Launcher
from configs.errors import NO_REQUEUE, RunError

LOOK_SECONDS, TELL_SECONDS, LESS_SECONDS, MEET_SECONDS = 2.0, 60.0, 15.0, 90.0


class Missing(RunError):
    """The cluster has not what the job needs, and did not get it in time."""

    exit_code = NO_REQUEUE


class Placement:
    """Launchers, one a node, each holding the node's share of processors and GPUs.

    A bundle of the placement group is a node's ranks together, and STRICT_SPREAD keeps bundles apart: bundles of single
    ranks could be packed 3 + 1 on two nodes where 2 + 2 was asked for, and no strategy of Ray's forbids that.

    Raises:
        Missing: fewer than `fewest` nodes have room after `wait_seconds`.
    """

    def __init__(
        self,
        nodes: int,
        bundle: Mapping[str, float],
        say: Callable[[str], None],
        *,
        fewest: int,
        wait_seconds: float,
        stopped: Callable[[], bool],
    ):
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._group = _reserve(nodes, bundle, say, fewest, wait_seconds, stopped)
        self.nodes: int = self._group.bundle_count
        actor = ray.remote(max_restarts=0, max_task_retries=0)(Launcher)
        self.launchers = [
            actor.options(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index),
            ).remote()
            for index in range(self.nodes)
        ]

    def meet(self, ranks: int, job: str, attempt: str) -> list[Node]:
        """What each launcher is to know of itself and the others: addresses, and a port for the first rank.

        Raises:
            ray.exceptions.RayError: a node was lost in the meantime, or does not answer.
        """
        import ray

        hosts = self._addresses()
        told = [launcher.meet.remote(host) for launcher, host in zip(self.launchers, hosts, strict=True)]
        port = ray.get(told, timeout=MEET_SECONDS)[0][1]
        return [Node(k, self.nodes, ranks, tuple(hosts), hosts[0], port, job, attempt) for k in range(self.nodes)]

    def _addresses(self) -> list[str]:
        """Addresses of the nodes, in the order of the bundles."""
        import ray
        from ray.util import placement_group_table

        where = placement_group_table(self._group)["bundles_to_node_id"]
        known = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        return [known[where[index]] for index in range(self.nodes)]

    def close(self) -> None:
        """End what runs there (it dies with its launcher), and give the nodes back."""
        import ray
        from ray.util import remove_placement_group

        for launcher in self.launchers:
            ray.kill(launcher, no_restart=True)
        remove_placement_group(self._group)


def _reserve(
    nodes: int,
    bundle: Mapping[str, float],
    say: Callable[[str], None],
    fewest: int,
    wait_seconds: float,
    stopped: Callable[[], bool],
) -> Any:
    """A placement group of `nodes` bundles, each on a node of its own; of fewer, if they do not come."""
    from ray.util import placement_group, remove_placement_group

    for count in range(nodes, fewest - 1, -1):
        group = placement_group([dict(bundle)] * count, strategy="STRICT_SPREAD")
        begin = told = time.monotonic()
        patience = wait_seconds if count == nodes else LESS_SECONDS
        while not group.wait(LOOK_SECONDS):
            now = time.monotonic()
            if stopped() or now - begin > patience:
                break
            if told == begin or now - told > TELL_SECONDS:
                told = now
                say(f"{_missing(count, bundle)}; waiting for them, up to {patience:.0f} s")
        else:
            if count < nodes:
                say(f"going on with {count} of {nodes} nodes")
            return group
        remove_placement_group(group)
        if stopped():
            raise Missing("stopped while it waited for nodes")
    raise Missing(
        f"{_missing(nodes, bundle)}, and that did not change within {wait_seconds:g} s: give fewer with --nodes or "
        "--ranks-per-node, add nodes, or raise scheduler.wait_seconds of the site file"
    )


def _missing(count: int, bundle: Mapping[str, float]) -> str:
    import ray

    return missing_of(count, bundle, [node["Resources"] for node in ray.nodes() if node["Alive"]])


def missing_of(count: int, bundle: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str:
    """What a cluster of such nodes lacks.

    >>> missing_of(3, {"CPU": 2}, [{"CPU": 2}, {"CPU": 1}])
    'the job needs 3 nodes with 2 CPU each, and the cluster has 1 (of 2 nodes)'
    """
    wanted = " and ".join(f"{amount:g} {name}" for name, amount in bundle.items())
    fit = sum(all(node.get(name, 0) >= amount for name, amount in bundle.items()) for node in nodes)
    sentence = f"the job needs {count} node{'s' if count > 1 else ''} with {wanted} each, and the cluster has {fit}"
    return f"{sentence}, but others use them" if fit >= count else f"{sentence} (of {len(nodes)} nodes)"
