"""`looksay submit`, `status`, `cancel`: commands as jobs of a cluster."""

import argparse
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.errors import DONE, UserError
from pretrain.cli.output import emit
from pretrain.cli.parser import add_dry_run, add_json, add_verb, count

THEN = "+"
LATEST = 8
"""Of the jobs of a run, `status` asks for so many."""


def add_verbs(groups: Any) -> None:
    submit = add_verb(
        groups,
        "submit",
        _submit,
        "Hand commands to a cluster's scheduler. A job at its time limit checkpoints, queues again and goes on until it is done.",
        [
            "looksay submit --site my_cluster.yaml --dry-run train mine.yaml --run runs/mine",
            "looksay submit --site my_cluster.yaml --nodes 2 train mine.yaml --run runs/mine",
            "looksay submit --site my_cluster.yaml data build b.yaml + train a.yaml --run runs/a + evaluate runs/a",
            "looksay submit --site my_cluster.yaml --array 0-99%10 data build 'urls-{task:05}.parquet' 'runs/part-{task:05}'",
        ],
    )
    submit.add_argument("--site", required=True, metavar="SITE", help="a site's name or YAML file, with a scheduler")
    submit.add_argument(
        "--nodes",
        type=count,
        help="nodes of train and evaluate (default: the site's scheduler.nodes), and of data build on SLURM (1)",
    )
    submit.add_argument("--ranks-per-node", type=count, metavar="N", help="default: the site's, else its GPUs")
    submit.add_argument(
        "--time", metavar="TIME", help="limit of one start: 2:00:00 or 1-00:00:00 (default: the site's)"
    )
    submit.add_argument("--partition", help="default: the site's")
    submit.add_argument("--account", help="default: the site's")
    submit.add_argument(
        "--after", action="append", default=[], metavar="JOB", help="begin when this job is done well; repeatable"
    )
    submit.add_argument(
        "--array", metavar="TASKS", help="one job a number, such as 0-99%%10 (10 at a time), which {task} stands for"
    )
    submit.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="VERB ...",
        help=f"train, data build, evaluate or export; after a lone {THEN} one that begins when the one before is done",
    )
    status = add_verb(
        groups,
        "status",
        _status,
        "How far a run is: its place in the queue, step, loss, rate, time to go, last checkpoint, restarts.",
        ["looksay status runs/mine", "looksay status runs/mine --json"],
    )
    status.add_argument("run", metavar="RUN", help="a run's folder, or a dataset that was submitted")
    cancel = add_verb(
        groups,
        "cancel",
        _cancel,
        "Take a run's jobs off the queue, or end them: a running one writes a checkpoint first if it has the time.",
        ["looksay cancel runs/mine", "looksay cancel runs/mine --dry-run"],
    )
    cancel.add_argument("run", metavar="RUN", help="a run's folder, or a dataset that was submitted")
    for parser in (submit, cancel):
        add_dry_run(parser)
    for parser in (submit, status, cancel):
        add_json(parser)


def _submit(args: argparse.Namespace) -> int:
    from cluster.schedulers.choose import scheduler_of
    from cluster.schedulers.submitted import note
    from data_pipeline.storage import put
    from pretrain.cli.stages_of import job_of, settings_of

    config = settings_of(args)
    scheduler = scheduler_of(config, args.site)
    shown = f"looksay submit {shlex.join(_given(args))}"
    jobs = [
        job_of(words, args, config, shown, first=number == 0) for number, words in enumerate(_commands(args.command))
    ]
    if args.array and len(jobs) > 1:
        raise UserError(f"--array makes many jobs of one command: submit what comes after {THEN} with --after JOB")
    if args.nodes and args.nodes > 1 and all(job.nodes == 1 for job in jobs):
        raise UserError(_one_node(args.command, config))
    if args.dry_run:
        texts = [scheduler.render(job) for job in jobs]
        emit(
            {"jobs": [{**asdict(job), "script": text} for job, text in zip(jobs, texts, strict=True)]},
            "\n".join(f"would submit {job.name}:\n\n{text}" for job, text in zip(jobs, texts, strict=True)),
            args.json,
        )
        return DONE
    for job in jobs:
        scheduler.check(job)
    from dataclasses import replace

    before, told = tuple(args.after), []
    for number, job in enumerate(jobs):
        job = replace(job, after=before)
        ending = "json" if config is not None and config.type == "ray" else "sh"
        script = Path(job.folder) / f"submit-{time.strftime('%Y%m%d-%H%M%S')}-{number}.{ending}"
        put(str(script), scheduler.render(job).encode())
        taken = scheduler.submit(job, str(script))
        note(
            Path(job.folder),
            **asdict(taken),
            scheduler=config.type if config else "",
            **scheduler.where,
            site=args.site,
            script=str(script),
            command=list(job.words),
        )
        before = (taken.id,)
        told.append({"name": job.name, **asdict(taken), "script": str(script), "after": list(job.after)})
        if not args.json:
            after = f" after {', '.join(job.after)}" if job.after else ""
            print(
                f"job {taken.id}: {job.name}{after}\n  log     {taken.log}\n  follow  {taken.follow}\n"
                f"  status  looksay status {shlex.quote(_what(job.folder))}\n  script  {script}",
                flush=True,
            )
    if args.json:
        emit({"jobs": told}, "", True)
    return DONE


def _one_node(command: Sequence[str], config: Any) -> str:
    if command[0] != "data":
        return f"{command[0]} runs on one node: leave out --nodes"
    if config is not None and config.type == "ray":
        return "data build uses all nodes of a Ray cluster: leave out --nodes; --set ray.workers=N bounds its tasks"
    return "this data build runs without Ray or on one elsewhere, so on one node: leave out --nodes"


def _what(folder: str) -> str:
    return folder.removesuffix("/logs").removesuffix(".jobs")


def _given(args: argparse.Namespace) -> list[str]:
    """The options of this submission as words, for the script's first line."""
    words = ["--site", args.site]
    for name in ("nodes", "ranks_per_node", "time", "partition", "account", "array"):
        value = getattr(args, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    for job in args.after:
        words += ["--after", job]
    return [*words, *args.command]


def _commands(words: Sequence[str]) -> list[list[str]]:
    """The commands between lone plus signs.

    Raises:
        UserError: there is none, or it holds a password, which would lie open in scripts and lists of processes.
    """
    commands: list[list[str]] = [[]]
    for word in words:
        if re.search(r"//[^/@\s]+:[^/@\s]+@", word):
            raise UserError(
                f"{re.sub(r'//[^/@ ]+@', '//***@', word)} holds a password, which everybody on the cluster could read: keep it in "
                "~/.aws/credentials, or in a file of mode 600 that scheduler.setup_files names"
            )
        if word == THEN:
            commands.append([])
        else:
            commands[-1].append(word)
    if not all(commands):
        raise UserError("submit has no command: add one, such as `train mine.yaml`; see `looksay submit --help`")
    return commands


def _jobs(run: str) -> list[dict[str, Any]]:
    from cluster.schedulers.submitted import jobs_in, logs_of

    return jobs_in(logs_of(run))


def _states(jobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What schedulers say of jobs, by id."""
    found: dict[str, Any] = {}
    for scheduler, ids in _by_scheduler(jobs):
        found |= scheduler.states(ids)
    return found


def _by_scheduler(jobs: Sequence[dict[str, Any]]) -> list[tuple[Any, list[str]]]:
    """Schedulers, each with the ids of the jobs that it was handed."""
    from cluster.schedulers.choose import scheduler_of_job

    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for job in jobs:
        key = tuple(str(job.get(name, "")) for name in ("scheduler", "address", "token_file"))
        groups.setdefault(key, []).append(job)
    return [(scheduler_of_job(group[0]), [job["id"] for job in group]) for group in groups.values()]


def _status(args: argparse.Namespace) -> int:
    from pretrain.run_status import status_of, text_of

    jobs = _jobs(args.run)
    if not jobs and not (Path(args.run) / "config.yaml").is_file():
        raise UserError(
            f"{args.run} is not a run, and nothing was submitted for it: give the folder of a `looksay train`"
        )
    tree = status_of(Path(args.run), jobs, _states(jobs[-LATEST:]) if jobs else {})
    emit(tree, "" if args.json else text_of(tree), args.json)
    return DONE


def _cancel(args: argparse.Namespace) -> int:
    jobs = _jobs(args.run)
    if not jobs:
        raise UserError(f"nothing was submitted for {args.run}: stop what runs on this machine with Ctrl-C")
    if any(job.get("scheduler", "slurm") == "slurm" for job in jobs) and not _slurm_is_here():
        raise UserError("no SLURM on this machine (scontrol is not on PATH): cancel on a login node of the cluster")
    states = _states(jobs)
    unknown = next((state.reason for state in states.values() if state.state == "UNKNOWN"), None)
    ids = [number for number, state in states.items() if state.waits_or_runs]
    if not ids:
        if unknown is not None:
            raise UserError(unknown)
        emit({"cancelled": []}, f"no job of {args.run} waits or runs", args.json)
        return DONE
    if not args.dry_run:
        for scheduler, own in _by_scheduler(jobs):
            if active := [number for number in own if number in ids]:
                scheduler.cancel(active)
    word = "would cancel" if args.dry_run else "cancelled"
    emit({"cancelled": ids, "dry_run": args.dry_run}, f"{word} job {', '.join(ids)} of {args.run}", args.json)
    return DONE


def _slurm_is_here() -> bool:
    import shutil

    return shutil.which("scontrol") is not None and shutil.which("scancel") is not None
