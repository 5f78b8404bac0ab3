"""`looksay checkpoint list | verify | prune`."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from configs.errors import DONE, FAILED, UserError
from pretrain.cli.output import emit
from pretrain.cli.parser import Parser, add_dry_run, add_json, add_verb, count


def add_verbs(groups: Any) -> None:
    text = "Look at a run's checkpoints: which there are, whether they are whole, and what they trained on."
    checkpoint = add_verb(groups, "checkpoint", _nothing, text, ["looksay checkpoint list runs/mine"])
    verbs = checkpoint.add_subparsers(dest="checkpoint_verb", metavar="VERB", required=True, parser_class=Parser)
    listed = add_verb(
        verbs,
        "list",
        _list,
        "Say which checkpoints a run has, by which start, and whether each is complete.",
        ["looksay checkpoint list runs/mine", "looksay checkpoint list runs/mine --json"],
    )
    verify = add_verb(
        verbs,
        "verify",
        _verify,
        "Hold every file against its hash; with --samples, prove that nothing was lost or trained on twice.",
        ["looksay checkpoint verify runs/mine", "looksay checkpoint verify runs/mine@400 --samples"],
    )
    verify.add_argument("--samples", action="store_true", help="draw the plan again and hold it against the ledger")
    prune = add_verb(
        verbs,
        "prune",
        _prune,
        "Remove old checkpoints, and what killed starts left unfinished.",
        ["looksay checkpoint prune runs/mine --keep-last 1", "looksay checkpoint prune runs/mine --dry-run"],
    )
    prune.add_argument(
        "--keep-last", type=count, metavar="N", help="keep the newest N (default: all that are complete)"
    )
    add_dry_run(prune)
    for parser in (listed, verify, prune):
        parser.add_argument("run", metavar="RUN", help="a run's folder; verify takes RUN@STEP too")
        add_json(parser)


def _nothing(_: argparse.Namespace) -> int:
    raise UserError("checkpoint has no verb: give list, verify or prune")


def _opened(spec: str) -> tuple[Path, int | None]:
    name, _, step = spec.partition("@")
    if not Path(name).is_dir():
        raise UserError(f"{name} is not a folder: give a run, as `looksay train` makes it")
    if step and not step.isdigit():
        raise UserError(f"{spec}: {step!r} is not a step, for example {name}@100")
    return Path(name), int(step) if step else None


def _rows(run: Path, only: int | None) -> list[dict[str, Any]]:
    from pretrain.checkpoint.choose import problem_of
    from pretrain.checkpoint.head import Heads
    from pretrain.run_folder import checkpoints_of

    root = checkpoints_of(run)
    head = Heads(root).read()
    if only is not None and head.entry(only) is None:
        raise UserError(f"{run} has no checkpoint of step {only}: it has {head.steps or 'none'}")
    rows = []
    for entry in sorted(head.entries, key=lambda entry: entry.step):
        if only is not None and entry.step != only:
            continue
        reason = problem_of(root, head, entry)
        rows.append(
            {
                "step": entry.step,
                "generation": entry.generation,
                "folder": entry.folder,
                "time": entry.time,
                "score": entry.score,
                "complete": reason is None,
                "reason": reason,
            }
        )
    return rows


def _list(args: argparse.Namespace) -> int:
    run, only = _opened(args.run)
    rows = _rows(run, only)
    lines = [f"{'step':>10}  {'start':>6}  {'written':<19}  complete"]
    for row in rows:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["time"]))
        state = "yes" if row["complete"] else f"no: {row['reason']}"
        score = "" if row["score"] is None else f"  validation loss {row['score']:.4f}"
        lines.append(f"{row['step']:>10}  {row['generation']:>6}  {when:<19}  {state}{score}")
    emit(rows, "\n".join(lines) if rows else f"{run} has no checkpoint", args.json)
    return DONE


def _verify(args: argparse.Namespace) -> int:
    run, only = _opened(args.run)
    rows = _rows(run, only)
    if not rows:
        raise UserError(f"{run} has no checkpoint: let `looksay train` reach its first one")
    found: dict[str, Any] = {"checkpoints": rows}
    lines = [
        f"step {row['step']}: {'every file has its hash' if row['complete'] else 'DAMAGED: ' + row['reason']}"
        for row in rows
    ]
    if args.samples:
        proof = found["samples"] = _proof(run, [row for row in rows if row["complete"]], args.json)
        lines.append(
            f"steps 1 to {proof['steps']}: {proof['samples']} samples in {len(proof['starts'])} starts, {proof['failed']} unreadable, "
            f"{proof['drawn']} drawn, {proof['left_over']} left over"
        )
        lines += proof["problems"] or ["nothing was lost, nothing was trained on twice"]
    emit(found, "\n".join(lines), args.json)
    whole = all(row["complete"] for row in rows) and not (args.samples and found["samples"]["problems"])
    return DONE if whole else FAILED


def _proof(run: Path, rows: list[dict[str, Any]], quiet: bool) -> dict[str, Any]:
    from tqdm import tqdm

    from configs.load import load_recipe
    from configs.schema import TrainRecipe
    from data_pipeline import storage
    from data_pipeline.stream.tables import open_data
    from pretrain.checkpoint.ledger import Ledger
    from pretrain.checkpoint.proof import prove
    from pretrain.run_folder import checkpoints_of

    if not rows:
        raise UserError(f"{run} has no whole checkpoint, so no ledger that could be believed")
    recipe = load_recipe(str(run / "config.yaml"))
    assert isinstance(recipe, TrainRecipe)
    folder = storage.join(checkpoints_of(run), rows[-1]["folder"])
    ledger = Ledger(storage.read_bytes(storage.join(folder, "ledger.bin")))
    planner = open_data(recipe).planner
    with tqdm(total=len(ledger), unit=" step", disable=quiet or not sys.stderr.isatty()) as bar:
        return prove(ledger, planner, lambda step: bar.update(step - bar.n)).to_json()


def _prune(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from data_pipeline import storage
    from pretrain.checkpoint.head import Heads, kept
    from pretrain.checkpoint.leftovers import leftovers_of
    from pretrain.run_folder import checkpoints_of

    run, _ = _opened(args.run)
    heads = Heads(checkpoints_of(run))
    head = heads.read()
    stay = kept(head.entries, args.keep_last) if args.keep_last else head.entries
    gone = [entry.folder for entry in head.entries if entry not in stay]
    # The newest start may be writing right now: what it has not committed is its own.
    left = leftovers_of(heads.root, replace(head, entries=stay))
    if not args.dry_run:
        if gone:
            heads.change(head.generation, lambda now: replace(now, entries=tuple(e for e in now.entries if e in stay)))
        for folder in [*gone, *left]:
            storage.remove_tree(storage.join(heads.root, folder))
    names = sorted({*gone, *left})
    word = "would remove" if args.dry_run else "removed"
    emit(
        {"removed": names, "kept": [entry.step for entry in stay], "dry_run": args.dry_run},
        f"{word} {', '.join(names) or 'nothing'}; kept: {[entry.step for entry in stay]}",
        args.json,
    )
    return DONE
