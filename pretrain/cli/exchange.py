"""`looksay import`, `looksay export`, `looksay convert`: published models in and out."""

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
        "Make a run at step 0 of a published vision-language model; train from it with stage.start_from.",
        [
            "looksay import llava-hf/llava-1.5-7b-hf runs/llava15",
            "looksay import downloads/llava-1.5-7b-hf runs/llava15 --dry-run",
        ],
    )
    brought.add_argument(
        "folder",
        metavar="HF",
        help="a folder with config.json and safetensors, or ORG/NAME[@REVISION] of a hub, out of the cache (looksay fetch)",
    )
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
    converted = add_verb(
        groups,
        "convert",
        _convert,
        "Make safetensors of a model whose weights are pickled (pytorch_model*.bin); no code of theirs is run.",
        ["looksay convert lmsys/vicuna-7b-v1.5 models/vicuna", "looksay convert old-model models/old --dry-run"],
    )
    converted.add_argument(
        "folder", metavar="HF", help="a folder with pytorch_model*.bin, or ORG/NAME[@REVISION] in the cache"
    )
    converted.add_argument("out", metavar="OUT", help="the folder to write, which must not be there yet")
    for parser in (brought, export, converted):
        add_dry_run(parser)
        add_json(parser)


def _import(args: argparse.Namespace) -> int:
    from pretrain.importing import import_published
    from pretrain.model.hf.families import match
    from pretrain.model.hf.published import Published

    folder, run = _folder(args.folder, "import"), Path(args.run)
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


def _folder(text: str, verb: str) -> Path:
    from data_pipeline.parts.cache import find

    folder = find(text, verb)
    if not folder.is_dir():
        raise UserError(f"{verb} {text} is a file: give the folder that it belongs to")
    return folder


def _convert(args: argparse.Namespace) -> int:
    from pretrain.converting import convert, pickled_files

    folder, out = _folder(args.folder, "convert"), Path(args.out)
    if args.dry_run:
        files = pickled_files(folder)
        emit(
            {"files": [str(path) for path in files]},
            f"would convert {len(files)} files of {folder} to {out}",
            args.json,
        )
        return DONE
    written = convert(folder, out, not args.json)
    size = sum(path.stat().st_size for path in written)
    said = {"files": [str(path) for path in written], "bytes": size}
    emit(said, f"wrote {out}: {len(written)} files, {size / 1e9:.2f} GB", args.json)
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
