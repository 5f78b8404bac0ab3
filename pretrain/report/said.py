"""What the model says about fixed pictures as it learns, and about held-out ones, the worst mistakes first."""

from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

from pretrain.report.folder import read_json, read_lines
from pretrain.report.markup import image, section, short
from pretrain.report.pictures import open_dataset, thumbnail

PICTURES, QUESTIONS, CAPTIONS = 6, 36, 24
"""Cards of each section."""


def over_time(stages: dict[str, Path]) -> str:
    """Fixed pictures and what the model said about them at each validation."""
    from configs.load import load_recipe

    out = []
    for name, run in stages.items():
        rows = read_lines(run / "predictions.jsonl")
        source = load_recipe(str(run / "config.yaml")).evaluate.source if rows else None
        if source is None:
            continue
        by_index: dict[int, dict[int, dict[str, Any]]] = {}
        for row in rows:
            by_index.setdefault(row["index"], {})[row["step"]] = row
        cards = "".join(_card(source, index, said) for index, said in list(by_index.items())[:PICTURES])
        out.append(f'<h3>{escape(name)}</h3><div class="cards">{cards}</div>')
    return section(
        "time",
        "The same pictures, over time",
        "".join(out),
        "What it says after so many steps about pictures it never trains on.",
    )


def _card(source: str, index: int, said: dict[int, dict[str, Any]]) -> str:
    first = next(iter(said.values()))
    lines = "".join(
        f'<li class="{"right" if row["text"].strip() == row["truth"].strip() else "other"}"><b>{step:,}</b> <span>{short(row["text"].strip()) or "(nothing)"}</span></li>'
        for step, row in sorted(said.items())
    )
    prompt = f'<p class="question">{short(first["prompt"])}</p>' if first["prompt"] else ""
    return (
        f"<article>{image(thumbnail(source, index), 'the picture asked about')}{prompt}"
        f'<ol class="said">{lines}</ol><p class="truth">truth: {short(first["truth"])}</p></article>'
    )


def mistakes(run: Path) -> str:
    """Held-out questions: the worst mistakes first, then a sample of what was right. A picture is shown once."""
    rows = read_lines(run / "evaluation" / "predictions.jsonl")
    shown = read_json(run / "evaluation" / "showcase.json")
    if not rows or not shown:
        return ""
    from pretrain.questions import questions_of

    dataset = open_dataset(shown["dataset"])
    place = {question.id: question for question in questions_of(dataset)}
    wrong = [row for row in rows if row["answer"] != row["truth"]]
    right = [row for row in rows if row["answer"] == row["truth"]]
    worst = _once(sorted(wrong, key=_badness(rows, wrong)), QUESTIONS * 2 // 3)
    rest = _once(right[:: max(1, len(right) // QUESTIONS)], QUESTIONS - len(worst))
    cards = []
    for row in worst + rest:
        question = place[row["id"]]
        picture = image(thumbnail(dataset.folder, question.sample, question.picture), "the picture asked about")
        loss = f" (loss {row['loss']:.1f})" if "loss" in row and row["answer"] != row["truth"] else ""
        cards.append(
            f'<article class="{"right" if row["answer"] == row["truth"] else "wrong"}">{picture}<p class="question">{short(row["question"])}</p>'
            f'<p class="answer">{short(row["answer"]) or "(nothing)"}</p><p class="truth">truth: {short(row["truth"])}{loss}</p></article>'
        )
    return section(
        "mistakes",
        "Held-out questions, worst mistakes first",
        f'<div class="cards small">{"".join(cards)}</div>',
        f"{len(wrong):,} of {len(rows):,} answers are wrong; a picture is shown once, and after the mistakes come some that are right.",
    )


def _badness(rows: list[dict[str, Any]], wrong: list[dict[str, Any]]) -> Any:
    """Worst = the truth surprised the model most; where losses were not kept, the type that is most often right."""
    if all("loss" in row for row in wrong):
        return lambda row: (-row["loss"], row["id"])
    asked, missed = Counter(row["type"] for row in rows), Counter(row["type"] for row in wrong)
    return lambda row: (missed[row["type"]] / asked[row["type"]], row["id"])


def _once(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The first rows of distinct pictures."""
    kept = {row["image_id"]: row for row in reversed(rows)}
    return [row for row in rows if kept[row["image_id"]] is row][:most]


def captions(run: Path) -> str:
    """Held-out pictures beside what the model says, and the caption it finds among 100; mistakes first."""
    rows, result = read_lines(run / "evaluation" / "captions.jsonl"), read_json(run / "evaluation" / "evaluation.json")
    if not rows or not result:
        return ""
    source = result["caption"]["dataset"]
    missed, found = [row for row in rows if not row["right"]], [row for row in rows if row["right"]]
    chosen = missed[: max(CAPTIONS // 2, CAPTIONS - len(found))] + found
    cards = "".join(
        f'<article class="{"right" if row["right"] else "wrong"}">{image(thumbnail(source, row["sample"]), row["truth"])}'
        f'<p class="answer">{short(row["said"]) or "(nothing)"}</p><p class="truth">truth: {short(row["truth"])}</p>'
        f'<p class="truth">found among all: {short(row["retrieved"])}</p></article>'
        for row in chosen[:CAPTIONS]
    )
    return section(
        "captions",
        "Held-out pictures, mistakes first",
        f'<div class="cards small">{cards}</div>',
        f"Above, what it says freely; below, the caption it finds likeliest among all. Found rightly: {len(found)} of {len(rows)}.",
    )
