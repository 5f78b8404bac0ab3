"""`looksay demo`, `looksay inspect`."""

import argparse
import sys
from typing import Any

from configs.errors import DONE
from pretrain.cli.output import emit
from pretrain.cli.parser import add_dry_run, add_json, add_set, add_verb, number


def add_verbs(groups: Any) -> None:
    demo = add_verb(
        groups,
        "demo",
        _demo,
        "Build, train, evaluate and report on real data; run again to resume or reuse what is there.",
        ["looksay demo", "looksay demo --folder runs/second --seed 1", "looksay demo --set sft.stage.steps=1000"],
    )
    demo.add_argument("--folder", default="runs/demo", help="where everything goes (default runs/demo)")
    demo.add_argument("--seed", type=number, default=0, help="seed of weights and order (default 0)")
    demo.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STAGE.KEY=VALUE",
        help="change a value of caption or sft; repeatable",
    )
    add_dry_run(demo)
    inspect = add_verb(
        groups,
        "inspect",
        _inspect,
        "Show one sample as the model sees it: text, ids, image slots, positions, labelled tokens, shapes.",
        ["looksay inspect demo_sft --sample 3", "looksay inspect mine.yaml --set data.packing.length=1024"],
    )
    inspect.add_argument("recipe", metavar="RECIPE", help="a recipe's name or file")
    inspect.add_argument(
        "--sample", type=number, default=0, metavar="K", help="number of the sample in the first source (default 0)"
    )
    inspect.add_argument("--no-colour", action="store_true", help="plain text, also on a terminal")
    add_set(inspect)
    add_json(inspect)


def _demo(args: argparse.Namespace) -> int:
    from pretrain.demo import run_demo

    return run_demo(args.folder, args.seed, args.set, dry_run=args.dry_run) or DONE


def _inspect(args: argparse.Namespace) -> int:
    from pretrain.cli.preflight import check_data, load_train

    recipe = load_train(args.recipe, args.set)
    check_data(recipe)
    from pretrain.inspect import inspect_sample

    colour = not args.no_colour and sys.stdout.isatty()
    shown = inspect_sample(recipe, args.sample, colour=colour, as_json=args.json)
    emit(shown, str(shown), args.json)
    return DONE
