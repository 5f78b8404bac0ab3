"""`looksay data ...`: build, verify, show, tokenizer, pack, stream."""

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.errors import DONE, FAILED, UserError
from pretrain.cli.output import as_line, emit
from pretrain.cli.parser import Parser, add_dry_run, add_json, add_set, add_verb, count, number

SOURCES = "a folder of pictures with NAME.txt or NAME.json beside each, a .jsonl, or a .parquet"


def add_verbs(groups: Any) -> None:
    data = groups.add_parser(
        "data",
        help="make and look at datasets",
        description="Make datasets and look at them. `looksay data VERB --help` has examples.",
    )
    verbs = data.add_subparsers(dest="data_verb", metavar="VERB", required=True, parser_class=Parser)
    _add_build(verbs)
    _add_readers(verbs)
    _add_tokenizer(verbs)
    _add_plan(verbs)


def _add_build(verbs: Any) -> None:
    build = add_verb(
        verbs,
        "build",
        _build,
        f"Make a dataset. SOURCE is {SOURCES}. Run again to continue a build that was cut short.",
        [
            "looksay data build photos/ runs/mine/data",
            "looksay data build pairs.jsonl runs/mine/data --set images.size=384",
            "looksay data build demo_vqa_train --set ray.workers=4",
        ],
    )
    build.add_argument(
        "what", nargs="+", metavar="WORD", help="SOURCE OUT: a source and a new folder; or RECIPE: a build recipe"
    )
    add_set(build)
    add_json(build)
    add_dry_run(build)


def _add_readers(verbs: Any) -> None:
    verify = add_verb(
        verbs,
        "verify",
        _verify,
        "Prove that input rows = kept + rejected, and every hash, of a dataset.",
        ["looksay data verify runs/demo/data/vqa_train"],
    )
    verify.add_argument("dataset", metavar="DATASET")
    add_json(verify)
    show = add_verb(
        verbs,
        "show",
        _show,
        "Say what a dataset holds, or write a gallery of it.",
        [
            "looksay data show runs/demo/data/vqa_train",
            "looksay data show runs/mine/data --html gallery.html --limit 200",
        ],
    )
    show.add_argument("dataset", metavar="DATASET")
    show.add_argument("--samples", type=count, default=5, help="samples to print (default 5)")
    show.add_argument("--html", metavar="FILE", help="write a self-contained gallery")
    show.add_argument("--limit", type=count, default=120, help="most samples of the gallery (default 120)")
    add_json(show)
    add_dry_run(show)


def _add_tokenizer(verbs: Any) -> None:
    tokenizer = add_verb(
        verbs,
        "tokenizer",
        _tokenizer,
        "Train a small byte-level BPE tokenizer on the texts of datasets.",
        ["looksay data tokenizer runs/mine/data --out runs/mine/tokenizer --vocab 1024"],
    )
    tokenizer.add_argument("datasets", nargs="+", metavar="DATASET")
    tokenizer.add_argument("--out", required=True, metavar="FOLDER", help="where tokenizer.json goes")
    tokenizer.add_argument("--vocab", type=count, default=2048, help="most tokens (default 2048)")
    add_dry_run(tokenizer)


def _add_plan(verbs: Any) -> None:
    pack = add_verb(
        verbs,
        "pack",
        _pack,
        "Packing statistics of a training recipe: how full rows are, and with what.",
        ["looksay data pack demo_sft", "looksay data pack mine.yaml --set data.packing.length=2048 --json"],
    )
    pack.add_argument("recipe", metavar="RECIPE")
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
        ],
    )
    stream.add_argument("recipe", metavar="RECIPE")
    stream.add_argument("--rank", type=number, default=0, help="data-parallel rank (default 0)")
    stream.add_argument("--of", type=count, default=1, help="data-parallel ranks (default 1)")
    stream.add_argument("--from-step", type=number, default=0, help="first optimizer step (default 0)")
    stream.add_argument("--steps", type=count, default=1, help="optimizer steps (default 1)")
    stream.add_argument("--no-decode", action="store_true", help="read no pixels")
    add_set(stream)
    add_json(stream)


def build_recipe_of(what: list[str], overrides: list[str]) -> Any:
    """The build recipe that `data build` was given by name, or a default one for SOURCE OUT."""
    from configs.load import load_recipe, resolve
    from configs.schema import BuildRecipe

    if len(what) > 2:
        raise UserError(
            f"data build takes SOURCE OUT or one RECIPE, not {len(what)} words: quote paths that have spaces"
        )
    if len(what) == 2:
        source, out = what
        name = out.rstrip("/").rsplit("/", 1)[-1] or "data"
        tree = {"kind": "build", "name": name, "source": _source_of(source), "output": out}
        return resolve(f"of {source}", [("the command line", tree)], overrides)
    if os.path.isdir(what[0]) or what[0].endswith((".jsonl", ".parquet")):
        raise UserError(f"data build {what[0]} has no output folder: add one, `looksay data build {what[0]} OUT`")
    recipe = load_recipe(what[0], overrides)
    if not isinstance(recipe, BuildRecipe):
        raise UserError(
            f"{what[0]} is a training recipe: use `looksay train {what[0]}`, or give a recipe with kind: build"
        )
    return recipe


def _source_of(source: str) -> dict[str, str]:
    """What kind of source a path is."""
    for ending, kind in ((".jsonl", "jsonl"), (".parquet", "parquet")):
        if source.endswith(ending):
            return {"type": kind, "path": source}
    if source.startswith("package:"):
        return {"type": "parquet", "path": source}
    if Path(source).is_dir():
        return {"type": "folder", "path": source}
    what = "is not one of these" if Path(source).exists() else "does not exist"
    raise UserError(f"source {source} {what}: give {SOURCES}")


def _build(args: argparse.Namespace) -> int:
    recipe = build_recipe_of(args.what, args.set)
    from data_pipeline.ingest import job, sources

    if args.dry_run:
        rows = len(sources.list_records(recipe.source))
        emit(
            {"rows": rows, "output": recipe.output, "recipe": recipe.model_dump(mode="json")},
            f"would build {recipe.output} from {rows} input rows of {sources.describe(recipe.source)}",
            args.json,
        )
        return DONE
    manifest = job.build(recipe, progress=not args.json)
    totals = manifest.totals
    rejected = ", ".join(f"{n} {reason}" for reason, n in totals["rejected"].items()) or "0"
    emit(
        {"output": recipe.output, "reused": manifest.reused, **totals},
        f"{'reused' if manifest.reused else 'built'} {recipe.output}: {totals['rows']} rows in, {totals['kept']} samples kept, "
        f"rejected: {rejected}; {len(manifest.shards)} shards\nnext: looksay data show {recipe.output}",
        args.json,
    )
    return DONE


def _verify(args: argparse.Namespace) -> int:
    from data_pipeline.ingest.verify import verify

    report = verify(args.dataset)
    found = f"{len(report.problems)} problems" if report.problems else "every count and hash is right"
    lines = [*report.problems, f"{args.dataset}: {report.shards} shards, {report.samples} samples: {found}"]
    emit({"ok": not report.problems, **asdict(report)}, "\n".join(lines), args.json)
    return FAILED if report.problems else DONE


def _show(args: argparse.Namespace) -> int:
    from data_pipeline.manifest import read_manifest

    read_manifest(args.dataset)
    if args.html is not None and args.dry_run:
        print(f"would write a gallery of {args.dataset} to {args.html}")
        return DONE
    from data_pipeline.ingest.gallery import show, write_gallery

    if args.html is not None:
        print(write_gallery(args.dataset, args.html, args.limit))
    else:
        print(show(args.dataset, args.samples, as_json=args.json))
    return DONE


def _tokenizer(args: argparse.Namespace) -> int:
    from data_pipeline.manifest import read_manifest
    from data_pipeline.stream.tokenizer import train_tokenizer

    for folder in args.datasets:
        read_manifest(folder)
    if args.dry_run:
        print(f"would train a tokenizer of at most {args.vocab} tokens on {', '.join(args.datasets)} into {args.out}")
        return DONE
    size = train_tokenizer(args.datasets, args.out, args.vocab)
    print(f"wrote {args.out}: {size} tokens; give it as data.tokenizer")
    return DONE


def _pack(args: argparse.Namespace) -> int:
    from pretrain.cli.preflight import check_data, load_train

    recipe = load_train(args.recipe, args.set)
    check_data(recipe)
    from data_pipeline.stream.statistics import pack_statistics, pack_table

    statistics = pack_statistics(recipe)
    emit(statistics, "" if args.json else pack_table(statistics), args.json)
    return DONE


def _stream(args: argparse.Namespace) -> int:
    from pretrain.cli.preflight import check_data, load_train

    if args.rank >= args.of:
        raise UserError(f"--rank {args.rank} is not a rank of --of {args.of}: ranks count from 0 to {args.of - 1}")
    recipe = load_train(args.recipe, args.set)
    check_data(recipe)
    from data_pipeline.stream.statistics import stream_rows

    for row in stream_rows(recipe, args.rank, args.of, args.from_step, args.steps, not args.no_decode):
        print(as_line(row) if args.json else _row_text(row))
    return DONE


def _row_text(row: dict[str, Any]) -> str:
    keys = " ".join(f"{s['source']}/{s['epoch']}/{s['key']}" for s in row["samples"]) or "(dummy)"
    place = f"step {row['step']} micro {row['micro']} rank {row['rank']} row {row['row']}"
    return f"{place}: {row['tokens']} tokens, {row['visual']} visual, {row['labels']} labels: {keys}"
