"""`looksay data pack` and `looksay data stream`: what a plan looks like, and what a rank would train on."""

import argparse
from typing import Any

from configs.errors import DONE, UserError
from pretrain.cli.output import as_line, emit
from pretrain.cli.parser import add_json, add_set, add_verb, count, number

WINDOW_ROWS = 4096


def add_plan(verbs: Any) -> None:
    pack = add_verb(
        verbs,
        "pack",
        _pack,
        "Packing statistics of a training recipe, or of bare lengths: how full rows are, with what, how well balanced.",
        [
            "looksay data pack demo_sft",
            "looksay data pack mine.yaml --set data.packing.length=2048 --json",
            "looksay data pack --lengths sft.npz --length 8192 --dp 8 --out plan.npz",
        ],
    )
    pack.add_argument("recipe", metavar="RECIPE", nargs="?")
    bare = pack.add_argument_group("bare lengths, in place of a recipe (no model, no data behind them)")
    bare.add_argument(
        "--lengths", metavar="FILE.npz", help="arrays tokens, vision (load of each sample) and vision_unit"
    )
    bare.add_argument("--length", type=count, help="positions of a row")
    bare.add_argument(
        "--dp", type=count, default=8, help="ranks that the balance is printed for; the plan has none (default 8)"
    )
    bare.add_argument(
        "--out", metavar="PLAN.npz", help="write the plan: sample ids in reading order, and the row of each"
    )
    bare.add_argument("--seed", type=number, default=0, help="(default 0)")
    bare.add_argument(
        "--window", type=count, default=WINDOW_ROWS, help=f"rows planned together (default {WINDOW_ROWS})"
    )
    bare.add_argument("--rows-per-step", type=count, default=512, help="rows of an optimizer step (default 512)")
    add_set(pack)
    add_json(pack)
    stream = add_verb(
        verbs,
        "stream",
        _stream,
        "Print what a rank would train on, one line a row.",
        [
            "looksay data stream demo_sft --steps 2",
            "looksay data stream demo_sft --rank 1 --of 4 --from-step 100 --json",
            "looksay data stream demo_sft --steps 50 --no-decode --json",
        ],
    )
    stream.add_argument("recipe", metavar="RECIPE")
    stream.add_argument("--rank", type=number, default=0, help="data-parallel rank (default 0)")
    stream.add_argument("--of", type=count, default=1, help="data-parallel ranks (default 1)")
    stream.add_argument(
        "--workers", type=number, help="processes that read ahead (default: the recipe's); changes no row"
    )
    stream.add_argument("--from-step", type=number, default=0, help="first optimizer step (default 0)")
    stream.add_argument("--steps", type=count, default=1, help="optimizer steps (default 1)")
    stream.add_argument("--no-decode", action="store_true", help="read no pixels")
    add_set(stream)
    add_json(stream)


def _pack(args: argparse.Namespace) -> int:
    if (args.recipe is None) == (args.lengths is None):
        raise UserError("give a RECIPE, or --lengths FILE.npz with --length: one of them")
    if args.lengths is not None:
        return _pack_lengths(args)
    from pretrain.cli.preflight import check_data, load_train

    recipe = load_train(args.recipe, args.set)
    check_data(recipe)
    from data_pipeline.stream.statistics import pack_statistics, pack_table

    statistics = pack_statistics(recipe)
    emit(statistics, "" if args.json else pack_table(statistics), args.json)
    return DONE


def _pack_lengths(args: argparse.Namespace) -> int:
    import numpy as np

    from data_pipeline.storage import put_file
    from data_pipeline.stream.plan.bare import LengthSet, pack_epoch, plan_columns
    from data_pipeline.stream.plan.score import Loads, balance, fill
    from data_pipeline.stream.plan.window import PlanSettings

    if args.length is None:
        raise UserError("--lengths needs --length: the positions of a row")
    if args.window % args.rows_per_step:
        raise UserError(
            f"--window {args.window} is not a multiple of --rows-per-step {args.rows_per_step}: a window is whole steps"
        )
    lengths = LengthSet.load(args.lengths)
    settings = PlanSettings(args.length, args.rows_per_step, args.window // args.rows_per_step, chunk=64)
    windows = list(pack_epoch(lengths, settings, args.seed))
    columns = plan_columns(iter(windows))
    parts = [Loads.of(w.samples.tokens, w.samples.patches, w.starts) for w in windows]
    loads = Loads(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("tokens", "patches", "attention")))
    if args.out is not None:
        put_file(args.out, lambda path: _save(path, columns))
    found = {
        "samples": len(columns["sample"]),
        "too_long": int((lengths.tokens > args.length).sum()),
        "rows": len(loads.tokens),
        "fill": fill(loads, args.length),
        "dp": args.dp,
        "balance": balance(loads, args.length, args.dp),
    }
    emit(found, _lengths_text(found, args), args.json)
    return DONE


def _save(path: str, columns: dict[str, Any]) -> None:
    import numpy as np

    with open(path, "wb") as stream:  # a name would be given an ending
        np.savez_compressed(stream, **columns)


def _lengths_text(found: dict[str, Any], args: argparse.Namespace) -> str:
    from data_pipeline.stream.plan.score import balance_lines

    lines = [
        f"{found['samples']} samples in {found['rows']} rows of {args.length}, {found['too_long']} too long and left out",
        f"fill {found['fill']:.2%}, padding {1 - found['fill']:.2%}",
        *balance_lines({str(args.dp): found["balance"]} if found["balance"] else {}),
    ]
    return "\n".join([*lines, f"wrote {args.out}"] if args.out else lines)


def _stream(args: argparse.Namespace) -> int:
    from pretrain.cli.preflight import check_data, load_train

    if args.rank >= args.of:
        raise UserError(f"--rank {args.rank} is not a rank of --of {args.of}: ranks count from 0 to {args.of - 1}")
    recipe = load_train(args.recipe, args.set)
    check_data(recipe)
    from data_pipeline.stream.lines import stream_rows

    rows = stream_rows(recipe, args.rank, args.of, args.from_step, args.steps, not args.no_decode, args.workers)
    for row in rows:
        print(as_line(row) if args.json else _row_text(row))
    return DONE


def _row_text(row: dict[str, Any]) -> str:
    keys = " ".join(f"{s['source']}/{s['epoch']}/{s['key']}" for s in row["samples"]) or "(dummy)"
    place = f"step {row['step']} micro {row['micro']} rank {row['rank']} row {row['row']}"
    return f"{place}: {row['tokens']} tokens, {row['visual']} visual, {row['labels']} labels: {keys}"
