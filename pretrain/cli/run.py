"""`looksay demo | inspect | train | evaluate | generate | report`."""

import argparse
import json
from pathlib import Path
from typing import Any

from configs.errors import UserError


def add_demo(group: Any) -> None:
    from pretrain.cli.main import verb

    demo = verb(
        group,
        "demo",
        run_demo,
        "the main job on embedded real data: build, train, evaluate, kill and resume, report",
        "  looksay demo\n  looksay demo --seed 1 --folder runs/demo1",
    )
    demo.add_argument("--folder", default="runs/demo")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--set", action="append", default=[], metavar="caption.KEY=VALUE", help="change a stage (caption.* or sft.*)")
    demo.add_argument("--dry-run", action="store_true", help="say what would be done")


def add(group: Any) -> None:
    from pretrain.cli.main import add_set, verb

    inspect = verb(
        group,
        "inspect",
        inspect_sample,
        "one training sample as the model sees it: text, ids, image slots, positions, labels, shapes",
        "  looksay inspect demo_sft --sample 3",
    )
    inspect.add_argument("recipe")
    inspect.add_argument("--sample", type=int, default=0)
    inspect.add_argument("--json", action="store_true")
    inspect.add_argument("--no-colour", action="store_true")
    add_set(inspect)

    train = verb(
        group,
        "train",
        train_run,
        "train a recipe into a run folder; goes on from its newest checkpoint",
        "  looksay train demo_caption --run runs/caption\n  looksay train my.yaml --set parallel.ranks=4 --set parallel.tp=2\n"
        "  torchrun --nproc-per-node 8 -m pretrain.cli.main train my.yaml\n  srun looksay train my.yaml",
    )
    train.add_argument("recipe")
    train.add_argument("--run", help="run folder (default runs/NAME)")
    train.add_argument("--until", type=int, metavar="STEP", help="stop after this step, with a checkpoint")
    train.add_argument("--dry-run", action="store_true", help="open data and plan, train nothing")
    add_set(train)

    evaluate = verb(
        group,
        "evaluate",
        evaluate_run,
        "questions against blind baselines, image swap, caption retrieval",
        "  looksay evaluate runs/demo/sft --train runs/demo/data/vqa_train --data runs/demo/data/vqa_test",
    )
    evaluate.add_argument("run", metavar="RUN", help="RUN or RUN@STEP")
    evaluate.add_argument("--data", help="held-out dataset (default: the recipe's evaluate.source)")
    evaluate.add_argument("--train", help="training dataset, for the blind baseline (default: the recipe's first source)")
    evaluate.add_argument("--out", help="folder of the results (default RUN/evaluation)")
    evaluate.add_argument("--json", action="store_true")

    generate = verb(
        group,
        "generate",
        generate_text,
        "answer about pictures, or caption one",
        '  looksay generate runs/demo/sft --image a.png --prompt "what shape is in the image?"\n'
        "  looksay generate runs/demo/caption --image a.png --temperature 0.8 --top-p 0.9 --seed 1 --json",
    )
    generate.add_argument("run", metavar="RUN", help="RUN or RUN@STEP")
    generate.add_argument("--image", action="append", default=[], help="picture (repeatable)")
    generate.add_argument("--prompt", help="user's message; <image> marks say where pictures go (none: a caption)")
    generate.add_argument("--max-new", type=int, default=64)
    generate.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    generate.add_argument("--top-p", type=float, default=1.0)
    generate.add_argument("--top-k", type=int, default=0)
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--json", action="store_true", help="token ids, text and log-probabilities")

    report = verb(group, "report", write_report, "the report page of a demo or a run", "  looksay report runs/demo\n  looksay report runs/a runs/b")
    report.add_argument("runs", nargs="+", metavar="RUN")


def run_demo(options: argparse.Namespace) -> int:
    from pretrain.demo import run_demo as run

    return run(options.folder, options.seed, options.set, dry_run=options.dry_run)


def _train_recipe(options: argparse.Namespace) -> Any:
    from configs.load import load_recipe

    recipe = load_recipe(options.recipe, options.set)
    if recipe.kind != "train":
        raise UserError(f"recipe {options.recipe} builds a dataset: use `looksay data build {options.recipe}`")
    return recipe


def inspect_sample(options: argparse.Namespace) -> None:
    from pretrain.inspect import inspect_sample as look

    shown = look(_train_recipe(options), options.sample, colour=not options.no_colour, as_json=options.json)
    print(json.dumps(shown) if options.json else shown)


def train_run(options: argparse.Namespace) -> None:
    recipe = _train_recipe(options)
    run = options.run or f"runs/{recipe.name}"
    from data_pipeline.stream.tables import open_data

    if options.dry_run:
        data = open_data(recipe)
        step = data.planner.step(0)
        print(f"{recipe.name}: {recipe.stage.steps} steps of {len(step.rows)} rows would go to {run}; step 0 learns {step.denominator:.0f} tokens")
        return
    from configs.load import dump_recipe
    from data_pipeline.storage import put
    from pretrain.session import run_jobs

    world = recipe.parallel.ranks
    if world % recipe.parallel.tp:
        raise UserError(f"parallel.tp {recipe.parallel.tp} does not divide parallel.ranks {world}: change one of them")
    _check_data(recipe)
    logs = Path(run) / "logs"
    resolved = logs / "recipe.yaml"
    put(str(resolved), dump_recipe(recipe).encode())
    run_jobs([{"verb": "train", "recipe": str(resolved), "run": run, "until": options.until}], world, logs)


def _check_data(recipe: Any) -> None:
    """What is missing is said here, before ranks start."""
    from data_pipeline.manifest import read_manifest
    from data_pipeline.stream.chat import Chat

    for source in recipe.data.sources:
        read_manifest(source.path)
    Chat(recipe.data.tokenizer, recipe.data.template)
    if recipe.stage.start_from:
        from pretrain.checkpoint import find

        find(recipe.stage.start_from)


def evaluate_run(options: argparse.Namespace) -> None:
    from configs.load import load_recipe
    from data_pipeline.stream.reader import Dataset
    from pretrain.checkpoint import find
    from pretrain.evaluate import evaluate
    from pretrain.mesh import init_mesh

    find(options.run)
    folder = options.run.partition("@")[0]
    recipe = load_recipe(str(Path(folder) / "config.yaml"))
    train = options.train or recipe.data.sources[0].path
    data = options.data or recipe.evaluate.source
    if data is None:
        raise UserError(f"{folder} has no evaluate.source: give a held-out dataset with --data")
    talk = Dataset(data).read(0).conversation
    asked = {"vqa": {"train": train, "test": data}} if talk.messages else {"caption": {"train": train, "heldout": data}}
    results = evaluate(init_mesh(None, 1), options.run, options.out or str(Path(folder) / "evaluation"), **asked)
    if options.json:
        print(json.dumps(results))


def generate_text(options: argparse.Namespace) -> None:
    if options.top_p <= 0 or options.top_p > 1:
        raise UserError(f"--top-p {options.top_p} is not in (0, 1]: use 1 for no limit")
    if options.max_new < 1:
        raise UserError(f"--max-new {options.max_new} is below 1: ask for at least one token")
    from pretrain.generate import generate_from_run

    made = generate_from_run(
        options.run,
        options.image,
        options.prompt,
        max_new=options.max_new,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        seed=options.seed,
    )
    print(json.dumps(made, ensure_ascii=False) if options.json else made["text"])


def write_report(options: argparse.Namespace) -> None:
    from pretrain.report.page import write_report as write

    print(write([Path(run) for run in options.runs]))
