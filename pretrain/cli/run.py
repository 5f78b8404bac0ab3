"""`looksay train`, `evaluate`, `generate`, `report`."""

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from configs.errors import DONE, UserError
from pretrain.cli.output import emit
from pretrain.cli.parser import add_dry_run, add_json, add_set, add_verb, count, number, positive, ratio

RUN = "a run's folder, with @STEP for one of its checkpoints"


def add_verbs(groups: Any) -> None:
    _add_train(groups)
    _add_evaluate(groups)
    _add_generate(groups)
    report = add_verb(
        groups,
        "report",
        _report,
        "Write report.html of runs, or of a folder of runs as `looksay demo` makes it: one self-contained page.",
        ["looksay report runs/demo", "looksay report runs/mine runs/other"],
    )
    report.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or a folder of runs")
    add_dry_run(report)


def _add_train(groups: Any) -> None:
    train = add_verb(
        groups,
        "train",
        _train,
        "Train a recipe's stage on local ranks, or as a rank that torchrun or SLURM started. Run again to resume.",
        [
            "looksay train demo_caption",
            "looksay train mine.yaml --run runs/first --set optim.clip=0.5 --set parallel.ranks=4",
            "torchrun --nproc-per-node 8 --no-python -- looksay train mine.yaml",
        ],
    )
    train.add_argument("recipe", metavar="RECIPE", help="a recipe's name or file")
    train.add_argument("--run", metavar="DIR", help="the run's folder (default runs/RECIPE_NAME)")
    train.add_argument("--until", type=count, metavar="STEP", help="stop after this step, as if interrupted")
    train.add_argument(
        "--time-limit",
        metavar="TIME",
        help="write a checkpoint and end (exit code 75) before this time is over: 90, 2:00:00",
    )
    train.add_argument("--resume-from", metavar="RUN@STEP", help="continue a copy of another run from its checkpoint")
    add_set(train)
    add_dry_run(train)


def _add_evaluate(groups: Any) -> None:
    evaluate = add_verb(
        groups,
        "evaluate",
        _evaluate,
        "Score a run: answers against a blind baseline and the image-swap test, or captions by retrieval.",
        [
            "looksay evaluate runs/demo/sft",
            "looksay evaluate runs/mine@400 --data runs/mine/heldout --out runs/mine/at400",
        ],
    )
    evaluate.add_argument("run", metavar="RUN[@STEP]", help=RUN)
    evaluate.add_argument("--data", metavar="DATASET", help="held-out samples (default: the run's evaluate.source)")
    evaluate.add_argument(
        "--train", metavar="DATASET", help="what the baseline may learn from (default: the run's first source)"
    )
    evaluate.add_argument("--out", metavar="FOLDER", help="where evaluation.json goes (default: RUN/evaluation)")
    evaluate.add_argument("--ranks", type=count, help="processes (default: the run's parallel.ranks)")
    add_json(evaluate)
    add_dry_run(evaluate)


def _add_generate(groups: Any) -> None:
    generate = add_verb(
        groups,
        "generate",
        _generate,
        "Answer a prompt about pictures, or caption a picture when there is no prompt.",
        [
            'looksay generate runs/demo/sft --image a.png --prompt "what color is the shape?"',
            "looksay generate runs/demo/caption --image a.png --temperature 0.8 --top-p 0.9 --seed 1 --json",
        ],
    )
    generate.add_argument("run", metavar="RUN[@STEP]", help=RUN)
    generate.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="a picture; repeatable, in order"
    )
    generate.add_argument("--prompt", help="the user's words; <image> puts a picture at its place")
    generate.add_argument("--max-new", type=count, default=64, help="most tokens of the answer (default 64)")
    generate.add_argument(
        "--temperature", type=positive, default=0.0, help="0 (the default): the likeliest token, always"
    )
    generate.add_argument(
        "--top-p", type=ratio, default=1.0, help="sample within this share of probability (default 1)"
    )
    generate.add_argument("--top-k", type=number, default=0, help="sample among this many tokens (default 0: all)")
    generate.add_argument("--seed", type=number, default=0, help="seed of sampling (default 0)")
    add_json(generate)


def _train(args: argparse.Namespace) -> int:
    from cluster.preempt import seconds_of
    from configs.load import dump_recipe
    from pretrain.cli.preflight import check_run, check_training, load_train

    recipe = load_train(args.recipe, args.set)
    run = args.run or f"runs/{recipe.name}"
    check_training(recipe, run)
    if args.resume_from is not None:
        check_run(args.resume_from, "--resume-from ")
    limit = None if args.time_limit is None else seconds_of(args.time_limit)
    if args.dry_run:
        print(f"would train {run}: {recipe.stage.steps} steps on {recipe.parallel.ranks} ranks; the resolved recipe:\n")
        print(dump_recipe(recipe), end="")
        return DONE
    from data_pipeline.storage import put
    from pretrain.run_folder import finish, steps_of
    from pretrain.session import run_jobs

    wanted, done = min(args.until or recipe.stage.steps, recipe.stage.steps), steps_of(Path(run))
    if done and done[-1] >= wanted:  # ranks need ten seconds to start: not for nothing
        finish(Path(run), done[-1], recipe.stage.steps)
        print(f"{run} has step {done[-1]} of {recipe.stage.steps} already: nothing to train")
        return DONE
    resolved = Path(run) / "logs" / "recipe.yaml"
    put(str(resolved), dump_recipe(recipe).encode())
    job = {"verb": "train", "recipe": str(resolved), "run": run, "until": args.until, "resume_from": args.resume_from}
    job["time_limit"] = limit
    run_jobs([job], recipe.parallel.ranks, f"{run}/logs")
    return DONE


def _evaluate(args: argparse.Namespace) -> int:
    from configs.load import load_recipe
    from data_pipeline.stream.read.dataset import Dataset
    from pretrain.cli.preflight import check_run, first_here

    check_run(args.run)
    run = args.run.partition("@")[0]
    recipe = load_recipe(f"{run}/config.yaml")
    train, data = args.train or recipe.data.sources[0].path, args.data or recipe.evaluate.source
    if data is None:
        raise UserError(f"{run} was trained without evaluate.source: give held-out samples with --data DATASET")
    Dataset(train)
    questions = Dataset(data).read(0).conversation.messages is not None
    out, ranks = args.out or f"{run}/evaluation", args.ranks or recipe.parallel.ranks
    if args.dry_run:
        what = "questions" if questions else "captions"
        print(f"would evaluate {args.run} on the {what} of {data} with {ranks} ranks and write {out}/evaluation.json")
        return DONE
    from pretrain.session import run_jobs

    job: dict[str, Any] = {"verb": "evaluate", "run": args.run, "out": out}
    job |= {"vqa": {"train": train, "test": data}} if questions else {"caption": {"train": train, "heldout": data}}
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        run_jobs([job], ranks, f"{run}/logs")
    if args.json and first_here():
        print(json.dumps(json.loads((Path(out) / "evaluation.json").read_bytes()), indent=1))
    return DONE


def _generate(args: argparse.Namespace) -> int:
    from pretrain.cli.preflight import check_run

    check_run(args.run)
    if not args.image and args.prompt is None:
        raise UserError("generate has neither --image nor --prompt: give at least one")
    from pretrain.picture_file import read_picture

    for path in args.image:
        read_picture(path)
    from pretrain.generate import generate_from_run

    answer = generate_from_run(
        args.run,
        args.image,
        args.prompt,
        max_new=args.max_new,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        seed=args.seed,
    )
    emit(answer, answer["text"], args.json)
    return DONE


def _report(args: argparse.Namespace) -> int:
    for run in args.runs:
        if not Path(run).is_dir():
            raise UserError(f"{run} is not a folder: give a run, or a folder of runs such as runs/demo")
    if args.dry_run:
        print(f"would write {args.runs[0]}/report.html")
        return DONE
    from pretrain.report.page import write_report

    print(write_report([Path(run) for run in args.runs]))
    return DONE
