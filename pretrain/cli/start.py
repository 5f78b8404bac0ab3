"""`looksay demo`, `looksay inspect`."""

import argparse
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
        ["looksay demo", "looksay demo --to runs/second --seed 1"],
    )
    demo.add_argument("--to", default="runs/demo", metavar="FOLDER", help="where everything goes (default runs/demo)")
    demo.add_argument("--seed", type=number, default=0, help="seed of weights and order (default 0)")
    add_dry_run(demo)
    inspect = add_verb(
        groups,
        "inspect",
        _inspect,
        "Show one sample as the model sees it: text, ids, image slots, positions, labelled tokens, shapes.",
        ["looksay inspect demo_sft --sample 3", "looksay inspect mine.yaml --set data.packing.length=1024"],
    )
    inspect.add_argument("recipe", metavar="RECIPE", help="a recipe's name or file")
    inspect.add_argument("--sample", type=number, default=0, metavar="K", help="number of the sample in the first source (default 0)")
    add_set(inspect)
    add_json(inspect)


def _demo(args: argparse.Namespace) -> int:
    if args.dry_run:
        print(f"would build data, train two stages, evaluate and report in {args.to} with seed {args.seed}")
        return DONE
    from pretrain.demo import run_demo

    run_demo(args.to, args.seed)
    return DONE


def _inspect(args: argparse.Namespace) -> int:
    from pretrain.cli.preflight import check_data, load_train

    recipe = load_train(args.recipe, args.set)
    check_data(recipe)
    from pretrain.inspect import inspect_sample

    text = inspect_sample(recipe, args.sample)
    emit({"recipe": recipe.name, "sample": args.sample, "text": text}, text, args.json)
    return DONE
