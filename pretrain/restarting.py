"""Local ranks started again after a failure, while each start finds a newer checkpoint than the one before."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.launch import RankFailure, launch, rank_environment
from cluster.place import Node
from cluster.ranks import Nursery
from configs.errors import NO_REQUEUE, REQUEUE, USAGE
from configs.load import load_recipe
from configs.schema import TrainRecipe
from data_pipeline import storage
from pretrain.attempts import Attempts
from pretrain.run_folder import checkpoints_of, steps_of

TARGET = "pretrain.session:run_as_rank"
MODULES = ("pretrain.session", "pretrain.running", "pretrain.evaluate", "torch.utils.tensorboard", "deepspeed")
"""What a rank imports sooner or later: done once, before ranks are forked."""


def start_ranks(
    path: str,
    jobs: Sequence[dict[str, Any]],
    ranks: int,
    log_dir: str,
    threads: int,
    on_start: Callable[[list[int]], None] | None = None,
    nursery: Nursery | None = None,
    node: Node | None = None,
) -> None:
    """Run the jobs of the file `path` on local ranks.

    Args:
        nursery: where ranks come from; without one they get one of their own.
        node: which of a scheduler's nodes this is. Where there are several, a failure ends this start on all of them, and the
            exit code says whether the job should be queued again.
    Raises:
        RankFailure: ranks failed, and starting them again does not help (93), or they were asked to stop (75).
    """
    runs = [Path(job["run"]) for job in jobs if job["verb"] == "train"]
    most = max((_restarts_of(job) for job in jobs if job["verb"] == "train"), default=0)
    several = node is not None and node.nodes > 1
    attempts = None if node is None else Attempts(Path(log_dir), node, most)
    if node is not None and attempts is not None and node.node == 0 and runs:
        attempts.begin(max(max(steps_of(run), default=0) for run in runs))
    own = nursery or Nursery(TARGET, MODULES, rank_environment(0, ranks, 0, threads, None, node))
    newest, vain, born = [], 0, time.time()
    before: tuple[list[int], str] | None = None
    try:
        while True:
            newest = [max(steps_of(run), default=0) for run in runs]
            try:
                env = {"LOOKSAY_BORN": f"{born:.3f}"}
                launch(
                    own,
                    [path],
                    ranks=ranks,
                    log_dir=log_dir,
                    threads=threads,
                    env=env,
                    on_start=on_start,
                    node=node if several else None,
                )
                return
            except RankFailure as failure:
                if several and attempts is not None:
                    raise attempts.judge(failure, max(newest, default=0)) from None
                if failure.exit_code in (USAGE, REQUEUE, NO_REQUEUE) or not most:
                    raise
                for run in runs:
                    storage.known_to_answer(checkpoints_of(run))
                now, last = [max(steps_of(run), default=0) for run in runs], (failure.lines or [""])[-1]
                vain = 0 if now != newest else vain + 1
                if vain > most or (vain and before == (now, last) and failure.status >= 0):
                    failure.exit_code = NO_REQUEUE
                    raise
                before = (now, last)
                print(
                    f"{failure}\nlooksay: all ranks start again ({vain} of {most} without a newer checkpoint)",
                    flush=True,
                )
                born = time.time()
    finally:
        if nursery is None:
            own.close()


def _restarts_of(job: dict[str, Any]) -> int:
    recipe = load_recipe(job["recipe"])
    return recipe.parallel.restarts if isinstance(recipe, TrainRecipe) else 0
