"""A command line as a job: which folder it belongs to, on how many nodes it runs, whether it is one that could run."""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.schedulers.job import Job
from cluster.schedulers.slurm_words import TASK
from configs.errors import UserError
from configs.scheduler import SchedulerConfig
from configs.site import load_site

VERBS = ("train", "data build", "evaluate", "export")


def settings_of(args: argparse.Namespace) -> SchedulerConfig | None:
    """The site's scheduler, with what the command line says instead.

    Raises:
        UserError: there is no such site, or an option is wrong.
    """
    from pydantic import ValidationError

    site = load_site(args.site)
    config = site.scheduler
    if config is None:
        return None
    given = {name: getattr(args, name) for name in ("time", "partition", "account") if getattr(args, name) is not None}
    hardware = site.hardware
    if config.ranks_per_node is None and not config.gpus_per_node and hardware is not None and hardware.kind == "gpu":
        given["gpus_per_node"] = hardware.devices_per_node
    if args.nodes and hardware is not None and args.nodes > hardware.nodes:
        raise UserError(f"--nodes {args.nodes} is more than site {args.site} has: hardware.nodes is {hardware.nodes}")
    try:
        return SchedulerConfig.model_validate({**config.model_dump(), **given})
    except ValidationError as error:
        problem = error.errors()[0]
        said = problem["msg"].removeprefix("Value error, ")
        raise UserError(f"--{problem['loc'][0]}: {said}") from None


def job_of(
    words: Sequence[str], args: argparse.Namespace, config: SchedulerConfig | None, shown: str, first: bool
) -> Job:
    """The job of one command.

    Args:
        first: nothing is submitted before it, so what it starts from has to be there.
    Raises:
        UserError: it is no command for a cluster, or could not run.
    """
    from pretrain.cli.main import make_parser

    verb = next((name for name in VERBS if list(words[: len(name.split())]) == name.split()), None)
    if verb is None:
        raise UserError(f"submit does not know what to do with {' '.join(words[:2])!r}: use one of {', '.join(VERBS)}")
    _check_tasks(words, args.array)
    one = [TASK.sub(lambda found: f"{_first_task(args.array):0{found[1] or 1}d}", word) for word in words]
    space = make_parser().parse_args(one)
    if getattr(space, "dry_run", False):
        raise UserError("--dry-run belongs to submit: put it before the command")
    name, home, ranks = _READ[verb](space, first)
    several = verb in ("train", "evaluate")
    nodes = (args.nodes or (config.nodes if config else 1)) if several else 1
    store = space.own_ray_mb if verb == "data build" and config is not None and config.type == "slurm" else None
    if store is not None:
        nodes = args.nodes or 1
    if several:
        site_ranks = (config.ranks_per_node or config.gpus_per_node) if config else None
        ranks = args.ranks_per_node or site_ranks or ranks
        tp = getattr(space, "tp", 1)
        if ranks * nodes % tp:
            raise UserError(
                f"parallel.tp {tp} does not divide {nodes} nodes x {ranks} ranks: change --nodes or --ranks-per-node"
            )
    if config is not None and config.working_dir is not None and not os.path.isabs(home):
        raise UserError(
            f"the job runs in a copy of scheduler.working_dir, where {home.removesuffix('/logs').removesuffix('.jobs')} would be "
            "lost: name recipe, data and run by whole paths"
        )
    folder = os.path.abspath(home)
    return Job(
        name=name,
        words=tuple(words),
        folder=folder,
        cwd=os.getcwd(),
        shown=shown,
        nodes=nodes,
        ranks_per_node=ranks if several else None,
        array=args.array,
        after=tuple(args.after),
        own_ray_mb=store if nodes > 1 else None,
    )


def _check_tasks(words: Sequence[str], array: str | None) -> None:
    named = any(TASK.search(word) for word in words)
    if array is not None and not re.fullmatch(r"\d+([-,]\d+)*(:\d+)?(%\d+)?", array):
        raise UserError(f"--array {array!r} is not a list of numbers such as 0-99, 1,5,7 or 0-99%10")
    if array is not None and not named:
        raise UserError("--array without {task} in the command: all jobs would do the same; write {task} or {task:05}")
    if named and array is None:
        raise UserError("{task} stands for the number of an array's job: say which with --array, such as 0-99")


def _first_task(array: str | None) -> int:
    found = re.match(r"\d+", array or "")
    return int(found.group()) if found else 0


def _read_train(space: Any, first: bool) -> tuple[str, str, int]:
    from configs.load import load_recipe
    from configs.schema import TrainRecipe
    from pretrain.run_folder import check_run_folder

    recipe = load_recipe(space.recipe, space.set)
    if not isinstance(recipe, TrainRecipe):
        raise UserError(f"{space.recipe} is a build recipe: use `data build {space.recipe}`")
    run = space.run or f"runs/{recipe.name}"
    check_run_folder(Path(run), recipe)
    start = recipe.stage.start_from
    if first and start is not None and not (Path(start.partition("@")[0]) / "config.yaml").is_file():
        raise UserError(
            f"stage.start_from {start} is not a run: let it be trained first, or chain the stages with a lone +"
        )
    space.tp = recipe.parallel.tp
    return recipe.name, f"{run}/logs", recipe.parallel.ranks


def _read_build(space: Any, first: bool) -> tuple[str, str, int]:
    from pretrain.cli.build import build_recipe_of, overrides_of

    recipe = build_recipe_of(space.what, overrides_of(space))
    out = str(recipe.output)
    space.own_ray_mb = None if recipe.ray.workers == 0 or recipe.ray.address else recipe.ray.object_store_mb
    return recipe.name, f"runs/{recipe.name}.jobs" if "://" in out else f"{out.rstrip('/')}.jobs", 1


def _read_run(space: Any, first: bool) -> tuple[str, str, int]:
    run = space.run.partition("@")[0]
    if first and not (Path(run) / "config.yaml").is_file():
        raise UserError(f"{run} is not a run (it has no config.yaml): give the folder of a `looksay train`")
    return f"{space.verb}-{Path(run).name}", f"{run}/logs", getattr(space, "ranks", None) or 1


_READ = {"train": _read_train, "data build": _read_build, "evaluate": _read_run, "export": _read_run}
