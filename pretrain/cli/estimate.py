"""`looksay estimate`: what a recipe needs and takes on a site, by arithmetic, before anything is started."""

import argparse
import re
import sys
from typing import Any

from configs.errors import DONE, UserError
from pretrain.cli.output import emit
from pretrain.cli.parser import add_json, add_set, add_verb, count, number, positive

VOCABULARY = 32_000
PICTURE, TEXT = "640x480", 100


def add_verbs(groups: Any) -> None:
    parser = add_verb(
        groups,
        "estimate",
        _estimate,
        "Memory, traffic, FLOPs, time and cost of a recipe on a site, without torch. docs/estimate.md has the formulas.",
        [
            "looksay estimate tiny_train --site laptop",
            "looksay estimate mine.yaml --site h100-8x --ranks 64 --json",
            "looksay estimate mine.yaml --site a100-8x --search",
            "looksay estimate mine.yaml --site h100-8x --simulate --ranks 1024",
            "looksay estimate mine.yaml --site my_cluster.yaml --set parallel.tp=2 --picture 1280x960 --text 400",
        ],
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's name or file")
    parser.add_argument("--site", required=True, metavar="SITE", help="a site's name (h100-8x, ...) or YAML file")
    parser.add_argument(
        "--ranks", type=count, help="devices (default: a node's; on a site without GPUs the recipe's parallel.ranks)"
    )
    parser.add_argument("--search", action="store_true", help="rank TP, ZeRO, rows per rank and accumulation that fit")
    parser.add_argument("--top", type=count, default=10, help="settings that --search shows (default 10)")
    parser.add_argument(
        "--simulate", action="store_true", help="steps with stragglers and failures; the best checkpoint interval"
    )
    parser.add_argument("--mtbf-hours", type=positive, help="of one device, for --simulate (default: the site's)")
    parser.add_argument("--steps", type=count, default=200, help="steps that --simulate times (default 200)")
    parser.add_argument("--seed", type=number, default=0, help="of --simulate (default 0)")
    rows = parser.add_argument_group("rows, where the recipe's dataset is not there (where it is, its plan is used)")
    rows.add_argument("--lengths", metavar="FILE.npz", help="plan these lengths, as `data pack --lengths` does")
    rows.add_argument(
        "--picture", default=PICTURE, metavar="WxH", help=f"pixels of a sample's picture (default {PICTURE})"
    )
    rows.add_argument("--text", type=count, default=TEXT, help=f"tokens of text of a sample (default {TEXT})")
    rows.add_argument("--labels", type=count, help="learned tokens of a sample (default: half of --text)")
    rows.add_argument(
        "--vocabulary",
        type=count,
        help=f"tokens of the tokenizer (default: its own, else model.decoder.vocab_size, else {VOCABULARY})",
    )
    add_set(parser)
    add_json(parser)


def _estimate(args: argparse.Namespace) -> int:
    from cluster.cost.search import nearest_change, search
    from pretrain.cli.estimate_text import as_tree, search_text, search_tree, text_of

    estimator, notes = estimator_of(args)
    setting = _setting(args, estimator)
    if args.simulate:
        return _simulate(args, estimator, setting, notes)
    if args.search:
        found = search(estimator, setting.ranks)[: args.top]
        emit(search_tree(estimator, found), search_text(estimator, setting.ranks, found), args.json)
        return DONE
    estimate = estimator.run(setting)
    change = None if estimate.fits else nearest_change(estimator, setting)
    tree = as_tree(estimator, estimate, change, args.site, notes)
    emit(tree, "" if args.json else text_of(tree), args.json)
    return DONE


def estimator_of(args: argparse.Namespace) -> Any:
    """(Estimator, notes on what was assumed) of the command's arguments."""
    from cluster.cost.estimate import Estimator
    from configs.site import load_hardware
    from pretrain.row_loads import vocabulary_of

    hardware = load_hardware(args.site)
    recipe = _recipe(args)
    notes: list[str] = []
    vocabulary = args.vocabulary or vocabulary_of(recipe) or recipe.model.decoder.vocab_size
    if vocabulary is None:
        vocabulary = VOCABULARY
        notes.append(f"vocabulary: {VOCABULARY} assumed, {recipe.data.tokenizer} is not here (--vocabulary)")
    rows = _rows(args, recipe, notes)
    notes.append(f"rows: {rows.source}")
    precision = recipe.parallel.precision
    fast = precision == "bf16" and recipe.parallel.math != "fp32" and "bf16" in hardware.peak_tflops
    math = "bf16" if fast else "fp32"
    return Estimator(recipe, hardware, vocabulary, rows, math, hardware.attention or math), notes


def _recipe(args: argparse.Namespace) -> Any:
    from configs.load import load_recipe
    from configs.schema import TrainRecipe

    recipe = load_recipe(args.recipe, args.set)
    if not isinstance(recipe, TrainRecipe):
        raise UserError(f"{args.recipe} is a build recipe: estimate takes one with kind: train")
    return recipe


def _rows(args: argparse.Namespace, recipe: Any, notes: list[str]) -> Any:
    from pretrain.row_loads import assumed_rows, data_is_here, planned_rows, rows_of_lengths, uncounted

    if args.lengths is not None:
        return rows_of_lengths(recipe, args.lengths)
    if data_is_here(recipe):
        first = uncounted(recipe)
        if first is None:
            return planned_rows(recipe)
        notes.append(f"{first} has no token counts yet: `looksay data pack {args.recipe}` once, and its plan is used")
    found = re.fullmatch(r"(\d+)x(\d+)", args.picture)
    if found is None or not int(found[1]) or not int(found[2]):
        raise UserError(f"--picture {args.picture!r} is not WIDTHxHEIGHT in pixels, such as {PICTURE}")
    return assumed_rows(recipe, (int(found[1]), int(found[2])), args.text, args.labels or max(1, args.text // 2))


def _setting(args: argparse.Namespace, estimator: Any) -> Any:
    """The recipe's setting on the ranks asked for.

    Raises:
        UserError: TP does not divide the ranks, or there are not so many devices.
    """
    from dataclasses import replace

    hardware, setting = estimator.hardware, estimator.setting
    ranks = args.ranks or (hardware.devices_per_node if hardware.kind == "gpu" else setting.ranks)
    most = hardware.nodes * hardware.devices_per_node
    if hardware.kind == "gpu" and ranks > most:
        raise UserError(f"--ranks {ranks} is more than site {args.site} has: it has {most} devices")
    if ranks % setting.tp:
        fits = [n for n in range(1, ranks + 1) if ranks % n == 0]
        raise UserError(f"parallel.tp {setting.tp} does not divide {ranks} ranks: use one of {fits}")
    return replace(setting, ranks=ranks)


def _simulate(args: argparse.Namespace, estimator: Any, setting: Any, notes: list[str]) -> int:
    from cluster.cost.simulate import simulate
    from pretrain.cli.estimate_text import simulation_text

    mtbf = args.mtbf_hours or estimator.hardware.mtbf_hours
    if not mtbf:
        raise UserError(f"site {args.site} says no mtbf_hours: give --mtbf-hours of one device")
    if len(estimator.rows.features) < 2:
        print("note: every row is alike (no dataset, no --lengths), so ranks differ by jitter alone", file=sys.stderr)
    result = simulate(estimator, setting, mtbf, args.steps, args.seed)
    emit({**result, "notes": notes}, "" if args.json else simulation_text(result, notes), args.json)
    return DONE
