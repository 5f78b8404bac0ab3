"""Several jobs in one start of the ranks: importing torch, DeepSpeed and Megatron costs ten seconds a start.

`run_jobs` starts local ranks (or, where a launcher has made this process a rank, joins them) and each rank runs the
same list: train the caption stage, train the SFT stage, evaluate.
"""

import json
import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from cluster.gather import gather
from cluster.heartbeat import Heart
from cluster.interface import cores, interface_towards, settings_of
from cluster.place import Node, find_node, find_place
from cluster.scratch import cache_environment, forget
from configs.errors import DONE, FAILED, REQUEUE, USAGE, RunError, UserError
from configs.training import ParallelConfig
from data_pipeline.storage import put
from pretrain.goodput import born
from pretrain.restarting import start_ranks
from pretrain.run_folder import steps_of


def run_jobs(
    jobs: Sequence[dict[str, Any]],
    ranks: int,
    log_dir: str | Path,
    on_start: Callable[[list[int]], None] | None = None,
) -> None:
    """Run jobs on all ranks.

    Args:
        jobs: {"verb": "train", "recipe": path of a resolved recipe, "run": folder, "until": step | None,
            "resume_from": RUN@STEP | None, "time_limit": seconds | None} or {"verb": "evaluate", ...}: arguments of `pretrain.evaluate.evaluate`.
        ranks: local processes to start where no launcher made us a rank.
        on_start: gets the process ids of the ranks.
    Raises:
        RunError: a rank failed.
    """
    if find_place(os.environ) is not None:
        _run_scheduled(list(jobs))
        return
    path, node = Path(log_dir) / "jobs.json", find_node(os.environ)
    put(str(path), json.dumps(list(jobs), indent=1).encode())
    if node is not None:
        ranks = node.ranks
        join_nodes(node, Path(log_dir))
        os.environ |= cache_environment(os.environ, node.job)
    start_ranks(str(path), jobs, ranks, str(log_dir), max(1, cores() // ranks), on_start, node=node)
    if node is not None:
        forget(node.job)


def join_nodes(node: Node, log_dir: Path, refused: str | None = None) -> None:
    """Meet the other nodes of a scheduler's job, and choose the interface that leads to them.

    Raises:
        Apart: they do not share the folder, or one of them cannot begin.
    """
    if node.nodes > 1:
        gather(log_dir, node, refused)
        interface = interface_towards(node.hosts, node.host)
        if interface is not None:  # gloo would listen where the machine's own name leads, often loopback
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if node.node == 0:
        where = f"{node.nodes} node{'s' if node.nodes > 1 else ''} x {node.ranks} ranks"
        at = f", meeting at {node.master_addr}:{node.master_port}" if node.nodes > 1 else ""
        print(f"job {node.attempt}: {where}{at}; settings: {settings_of(os.environ)}", flush=True)


def _run_scheduled(jobs: list[dict[str, Any]]) -> None:
    """A rank that torchrun or SLURM started. What another start may mend asks for a requeue."""
    try:
        run_here(jobs)
    except UserError:
        raise
    except RunError as error:
        error.exit_code = getattr(error, "exit_code", REQUEUE)  # type: ignore[attr-defined]
        raise
    except Exception as error:
        _say_unexpected(error)
        os._exit(REQUEUE)  # destructors that run collectives would wait for peers that are gone


def _say_unexpected(error: BaseException) -> None:
    from cluster.launch import LOST_PEER

    if any(mark in str(error) for mark in LOST_PEER):
        # The peer's own log has the cause; a page of collectives would bury it.
        print(f"looksay: this rank lost a peer: {str(error).splitlines()[0][:160]}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)


def run_here(jobs: list[dict[str, Any]]) -> None:
    """Run jobs in this process, which is a rank (or stands alone)."""
    import torch

    from cluster.preempt import Stop, end_of_job
    from configs.load import load_recipe
    from configs.schema import TrainRecipe
    from pretrain.mesh import destroy_mesh, init_mesh, set_tensor_parallel

    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    mesh, watch = None, Watch()
    for job in jobs:
        arguments = dict(job)
        verb = arguments.pop("verb")
        recipe = load_recipe(arguments.pop("recipe")) if "recipe" in arguments else None
        tp, timeout = 1, 300.0
        if isinstance(recipe, TrainRecipe):
            tp, timeout = recipe.parallel.tp, recipe.parallel.timeout_seconds
        if mesh is None:
            mesh = init_mesh(find_place(os.environ), tp, timeout, on_store=partial(watch.begin, recipe=recipe))
        elif mesh.tp_size != tp:
            mesh = set_tensor_parallel(mesh, tp)
        if isinstance(recipe, TrainRecipe):
            from pretrain.metrics import seconds_of_steps
            from pretrain.running import train

            run, start = arguments.pop("run"), time.perf_counter()
            stop = Stop(end_of_job(os.environ, arguments.pop("time_limit", None), born()))
            # Of starts that were killed, the steps that this one takes up are all that is known.
            earlier = seconds_of_steps(Path(run), max(steps_of(Path(run)), default=0)) if mesh.is_first else 0.0
            if train(recipe, run, mesh, heart=watch.heart, stop=stop, **arguments) and mesh.is_first:
                taken = round(earlier + time.perf_counter() - start, 1)
                put(str(Path(run) / "timing.json"), json.dumps({"seconds": taken}).encode())
        elif verb == "evaluate":
            from pretrain.evaluate import evaluate

            evaluate(mesh=mesh, **arguments)
        else:
            raise UserError(f"job verb {verb!r} is not train or evaluate")
    watch.close()
    destroy_mesh()


class Watch:
    """The heartbeat of this rank, from the moment there is a store."""

    def __init__(self) -> None:
        self.heart: Heart | None = None

    def begin(self, store: Any, recipe: Any) -> None:
        place = find_place(os.environ)
        if place is None or place.world < 2:
            return
        from torch.distributed import PrefixStore

        parallel = ParallelConfig() if not hasattr(recipe, "parallel") else recipe.parallel
        link = store.clone()  # another thread may be blocked in a connection that is shared
        link.set_timeout(timedelta(seconds=parallel.heartbeat_seconds))
        own = PrefixStore("heart", link)
        self.heart = Heart(
            own, place.rank, place.world, socket.gethostname(), parallel.heartbeat_seconds, parallel.timeout_seconds
        )
        self.heart.start()

    def close(self) -> None:
        if self.heart is not None:
            self.heart.close()


def main(arguments: list[str]) -> int:
    """A rank with JOBS.json. Prints one sentence on bad input."""
    try:
        run_here(json.loads(Path(arguments[0]).read_text()))
    except UserError as error:
        print(f"looksay: error: {error}", file=sys.stderr, flush=True)
        return USAGE
    except RunError as error:
        print(f"looksay: {error}", file=sys.stderr, flush=True)
        return getattr(error, "exit_code", FAILED)
    return DONE


def run_as_rank() -> None:
    """A rank leaves at once when it fails: destructors that run collectives would wait for peers that are gone."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    code = FAILED
    try:
        code = main(sys.argv[1:])
    except BaseException as error:
        _say_unexpected(error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
