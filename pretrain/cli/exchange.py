"""`looksay import`, `looksay export`: published models in and out."""

import argparse
from pathlib import Path
from typing import Any

from configs.errors import DONE, UserError
from pretrain.cli.output import emit
from pretrain.cli.parser import add_dry_run, add_json, add_verb


def add_verbs(groups: Any) -> None:
    brought = add_verb(
        groups,
        "import",
        _import,
        "Make a run at step 0 of a published model's folder; train from it with stage.start_from.",
        ["looksay import llava-1.5-7b-hf runs/llava15", "looksay import llava-1.5-7b-hf runs/llava15 --dry-run"],
    )
    brought.add_argument("folder", metavar="HF", help="a folder with config.json and safetensors")
    brought.add_argument("run", metavar="RUN", help="the run's folder, which must not be there yet")
    export = add_verb(
        groups,
        "export",
        _export,
        "Write a run as its family is published: what transformers loads.",
        ["looksay export runs/mine out/mine --format hf", "looksay export runs/mine@400 out/mine400 --format hf"],
    )
    export.add_argument("run", metavar="RUN[@STEP]", help="a run that started from an imported model")
    export.add_argument("out", metavar="OUT", help="the folder to write, which must be empty or not there yet")
    export.add_argument("--format", choices=["hf"], default="hf", help="the only one so far (default)")
    for parser in (brought, export):
        add_dry_run(parser)
        add_json(parser)


def _import(args: argparse.Namespace) -> int:
    from pretrain.importing import import_published
    from pretrain.model.hf.families import match
    from pretrain.model.hf.published import Published

    folder, run = Path(args.folder), Path(args.run)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: fetch the model first and give its folder")
    matched = match(Published(folder)) if args.dry_run else import_published(folder, run, run.name, not args.json)
    count = sum(_elements(rule.shape) for rule, _ in matched.pairs)
    word = "would import" if args.dry_run else "imported"
    told = {"run": str(run), "tensors": len(matched.pairs), "parameters": count, "left_aside": matched.aside}
    text = (
        f"{word} {len(matched.pairs)} tensors, {count:,} parameters; {len(matched.aside)} that no part uses are kept for the way back\n"
        f"next: a recipe with `extends: {run / 'config.yaml'}`, your data.sources, and stage.start_from: {run}"
    )
    emit(told, text, args.json)
    return DONE


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _export(args: argparse.Namespace) -> int:
    from pretrain.cli.preflight import check_run
    from pretrain.exporting import export_run, home_of

    check_run(args.run)
    if args.dry_run:
        home = home_of(Path(args.run.partition("@")[0]))
        emit({"from": str(home)}, f"would write {args.run} to {args.out}, as {home} says", args.json)
        return DONE
    written = export_run(args.run, Path(args.out), not args.json)
    size = sum(path.stat().st_size for path in written)
    emit(
        {"files": [str(path) for path in written], "bytes": size},
        f"wrote {args.out}: {len(written)} files, {size / 1e9:.2f} GB",
        args.json,
    )
    return DONE
