"""The report of the SmolLM2 demo: report.md, out of what its parts left in the folder."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {
    "heldout": "known styles, new captions",
    "fluent_seen": "new style, known captions",
    "fluent_new": "new style, new captions",
    "read_new_font": "known words, new typeface",
    "read_new_word": "new words, known typefaces",
}
BLIND = {
    "commonest": "training's commonest caption",
    "random": "a random training caption",
    "blank": "the model, shown a blank picture",
}
KINDS = {"Is this": "this or that", "What does the text": "reading"}
PARTS = (64, 16, 4, 1)


def write(folder: Path, seconds: dict[str, list[float]]) -> Path:
    """Write FOLDER/report.md, print it, and return its path."""
    lines = ["# A pretrained language model learns to see clip art", ""]
    lines += captions(folder) + questions(folder) + curve(folder) + examples(folder) + spent(folder, seconds)
    path = folder / "report.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    print(path)
    return path


def evaluation(folder: Path, run: str, data: str) -> dict[str, Any] | None:
    path = folder / run / f"on_{data}" / "evaluation.json"
    return json.loads(path.read_bytes()) if path.exists() else None


def captions(folder: Path) -> list[str]:
    lines = ["## Captions", ""]
    lines += [
        "| pictures | captions by | CIDEr | BLEU-1 | BLEU-2 | MiniLM | exact | right one among 100 (95 %) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    evaluated = evaluation(folder, "caption", "heldout")
    if evaluated is not None:
        data, found = "heldout", evaluated["caption"]
        name = next(key for key in found if key.startswith("retrieval"))
        low, high = found["interval"]
        right = f"{found[name]:.0%} ({low:.0%} to {high:.0%})"
        lines.append(caption_row(NAMES[data], "the model", found["metrics"], right))
        for key, title in BLIND.items():
            lines.append(caption_row("", title, found["blind"][key], "1 % by chance" if key == "random" else ""))
    lines += [row for data in ("heldout", "fluent_seen", "fluent_new") for row in named(folder, data)]
    return [*lines, ""]


def named(folder: Path, data: str) -> list[str]:
    """The same scores of the last stage's answers to `What is it?`, beside those it gives with another's picture."""
    from pretrain.caption_metrics import caption_metrics

    rows = [row for row in predictions(folder, data) if row["question"].startswith("What is it")]
    if not rows:
        return []
    said, truths = [row["answer"] for row in rows], [row["truth"] for row in rows]
    moved = said[1:] + said[:1]
    return [
        caption_row(NAMES[data], f"after SFT, `What is it?` ({len(rows)})", caption_metrics(said, truths), ""),
        caption_row("", "the same answers, each to the next picture", caption_metrics(moved, truths), ""),
    ]


def predictions(folder: Path, data: str) -> list[dict[str, Any]]:
    path = folder / "sft" / f"on_questions_{data}" / "predictions.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def caption_row(pictures: str, who: str, metrics: dict[str, float], right: str) -> str:
    cells = [f"{metrics[key]:.3f}" if key in metrics else "-" for key in ("cider", "bleu_1", "bleu_2", "similarity")]
    return f"| {pictures} | {who} | {' | '.join(cells)} | {metrics['exact']:.1%} | {right} |"


def questions(folder: Path) -> list[str]:
    lines = ["## Questions", ""]
    lines += [
        "| pictures | question | n | model | text only | both of a pair right (pairs) |",
        "|---|---|---|---|---|---|",
    ]
    swaps = ["| pictures | pairs | loss of the truth: right picture | wrong | blank | p |", "|---|---|---|---|---|---|"]
    for data, title in NAMES.items():
        found = evaluation(folder, "sft", f"questions_{data}")
        if found is None:
            continue
        rows = predictions(folder, data)
        for kind, (count, right, both, pairs) in by_kind(rows).items():
            blind = "50.0%" if kind == "this or that" else f"{found['vqa']['majority']:.1%}"
            pair = f"{both:.1%} ({pairs})" if pairs else "-"
            lines.append(f"| {title} | {kind} | {count} | {right:.1%} | {blind} | {pair} |")
        swap = found["image_swap"]
        if swap["pairs"]:
            swaps.append(
                f"| {title} | {swap['pairs']} | {swap['right']:.3f} | {swap['wrong']:.3f} | {swap['blank']:.3f} | {swap['p_value']:.4f} |"
            )
    return [*lines, "", "### Image swap", "", *swaps, ""]


def by_kind(rows: list[dict[str, Any]]) -> dict[str, tuple[int, float, float, int]]:
    """Kind of question -> (count, share right, share of pairs with both right, pairs); a pair has one question text."""
    hits: dict[str, list[bool]] = defaultdict(list)
    pairs: dict[str, list[bool]] = defaultdict(list)
    by_text: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        kind = next((kind for start, kind in KINDS.items() if row["question"].startswith(start)), "what is it")
        hits[kind].append(row["answer"] == row["truth"])
        if kind == "this or that":
            by_text[row["question"]].append(row)
    for both in by_text.values():
        if len({row["truth"] for row in both}) == 2:
            pairs["this or that"].append(all(row["answer"] == row["truth"] for row in both))
    return {
        kind: (len(right), float(np.mean(right)), float(np.mean(pairs[kind])) if pairs[kind] else 0.0, len(pairs[kind]))
        for kind, right in sorted(hits.items())
    }


def curve(folder: Path) -> list[str]:
    lines = [
        "## How much data do I need?",
        "",
        "| training pictures | held-out loss | training loss at the end |",
        "|---|---|---|",
    ]
    points = []
    for part in PARTS:
        run = folder / f"curve_{part}"
        rows = (
            [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            if (run / "metrics.jsonl").exists()
            else []
        )
        held = [row["validation"]["loss"] for row in rows if "validation" in row]
        trained = [row["loss"] for row in rows if "loss" in row]
        if held and trained:
            data = folder / "data" / ("train" if part == 1 else f"train_{part}")
            count = json.loads((data / "manifest.json").read_bytes())["totals"]["kept"]
            points.append((count, held[-1], float(np.mean(trained[-5:]))))
    lines += [f"| {count:,} | {loss:.3f} | {trained:.3f} |" for count, loss, trained in points]
    return [*lines, ""] if points else []


def examples(folder: Path) -> list[str]:
    path = folder / "caption" / "on_heldout" / "captions.jsonl"
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()][:20]
    return [
        "## The first twenty held-out pictures",
        "",
        "| truth | the model says |",
        "|---|---|",
        *(f"| {row['truth']} | {row['said']} |" for row in rows),
        "",
    ]


def spent(folder: Path, seconds: dict[str, list[float]]) -> list[str]:
    """Wall and processor seconds of each part: on a machine with other work the second is what it takes."""
    wall, used = (sum(column) for column in zip(*seconds.values(), strict=True))
    lines = ["## Time", "", "| part | seconds | of processors |", "|---|---|---|"]
    lines += [f"| {part} | {taken:.0f} | {cpu:.0f} |" for part, (taken, cpu) in seconds.items()]
    return [*lines, f"| all | {wall:.0f} ({wall / 60:.1f} minutes) | {used:.0f} |", ""]
