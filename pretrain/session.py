"""Several jobs in one start of the ranks: importing torch, DeepSpeed and Megatron costs ten seconds a start.

`run_jobs` starts local ranks (or, where a launcher has made this process a rank, joins them) and each rank runs the
same list: train the caption stage, train the SFT stage, evaluate.
"""

import json
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.place import find_place
from configs.errors import DONE, FAILED, USAGE, RunError, UserError
from data_pipeline.storage import put
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
            "resume_from": RUN@STEP | None} or {"verb": "evaluate", ...}: arguments of `pretrain.evaluate.evaluate`.
        ranks: local processes to start where no launcher made us a rank.
        on_start: gets the process ids of the ranks.
    Raises:
        RunError: a rank failed.
    """
    if find_place(os.environ) is not None:
        run_here(list(jobs))
        return
    from cluster.launch import launch

    path = Path(log_dir) / "jobs.json"
    put(str(path), json.dumps(list(jobs), indent=1).encode())
    threads = max(1, (os.cpu_count() or 1) // ranks)
    launch("pretrain.session", [str(path)], ranks=ranks, log_dir=str(log_dir), threads=threads, on_start=on_start)


def run_here(jobs: list[dict[str, Any]]) -> None:
    """Run jobs in this process, which is a rank (or stands alone)."""
    import torch

    from configs.load import load_recipe
    from configs.schema import TrainRecipe
    from pretrain.mesh import destroy_mesh, init_mesh, set_tensor_parallel

    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    mesh = None
    for job in jobs:
        arguments = dict(job)
        verb = arguments.pop("verb")
        recipe = load_recipe(arguments.pop("recipe")) if "recipe" in arguments else None
        tp, timeout = 1, 300.0
        if isinstance(recipe, TrainRecipe):
            tp, timeout = recipe.parallel.tp, recipe.parallel.timeout_seconds
        if mesh is None:
            mesh = init_mesh(find_place(os.environ), tp, timeout)
        elif mesh.tp_size != tp:
            mesh = set_tensor_parallel(mesh, tp)
        if isinstance(recipe, TrainRecipe):
            from pretrain.metrics import seconds_of_steps
            from pretrain.trainer import train

            run, start = arguments.pop("run"), time.perf_counter()
            # Of starts that were killed, the steps that this one takes up are all that is known.
            earlier = seconds_of_steps(Path(run), max(steps_of(Path(run)), default=0)) if mesh.is_first else 0.0
            if train(recipe, run, mesh, **arguments) and mesh.is_first:
                taken = round(earlier + time.perf_counter() - start, 1)
                put(str(Path(run) / "timing.json"), json.dumps({"seconds": taken}).encode())
        elif verb == "evaluate":
            from pretrain.evaluate import evaluate

            evaluate(mesh=mesh, **arguments)
        else:
            raise UserError(f"job verb {verb!r} is not train or evaluate")
    destroy_mesh()


def main(arguments: list[str]) -> int:
    """Entry of a rank: `python -m pretrain.session JOBS.json`. Prints one sentence on bad input."""
    try:
        run_here(json.loads(Path(arguments[0]).read_text()))
    except UserError as error:
        print(f"looksay: error: {error}", file=sys.stderr, flush=True)
        return USAGE
    except RunError as error:
        print(f"looksay: {error}", file=sys.stderr, flush=True)
        return getattr(error, "exit_code", FAILED)
    return DONE


def _run_as_rank() -> None:
    """A rank leaves at once when it fails: destructors that run collectives would wait for peers that are gone."""
    from cluster.launch import LOST_PEER

    code = FAILED
    try:
        code = main(sys.argv[1:])
    except BaseException as error:
        if any(mark in str(error) for mark in LOST_PEER):
            # The peer's own log has the cause; a page of collectives would bury it.
            print(f"looksay: this rank lost a peer: {str(error).splitlines()[0][:160]}", file=sys.stderr)
        else:
            traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    warnings.filterwarnings(
        "ignore", category=UserWarning, module="megatron"
    )  # optional GPU libraries that are missing
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    _run_as_rank()
