"""What the model says: the swap on top, answers over time, held-out pictures with the worst mistakes first."""

import json
from html import escape
from pathlib import Path
from typing import Any

from pretrain.report.pictures import blank, thumbnail


def read_json(path: Path) -> Any:
    """A JSON file; None where it is not there (yet)."""
    return json.loads(path.read_bytes()) if path.exists() else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A JSON-lines file; a torn last line of a running job is left out."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


def swap(run: Path) -> str:
    """One question, two pictures and a blank to choose between: the answer follows the picture."""
    shown = read_json(run / "evaluation" / "showcase.json")
    if not shown or not shown["rows"]:
        return ""
    out = []
    for number, row in enumerate(shown["rows"]):
        tabs, panels = [], []
        for place, face in enumerate(row["faces"]):
            name = f"swap{number}"
            source = (
                blank(tuple(shown["blank"]), 160)
                if face["sample"] < 0
                else thumbnail(shown["dataset"], face["sample"], face["number"], 160)
            )
            alt = "a blank picture" if face["sample"] < 0 else f"picture {place + 1}"
            checked = " checked" if place == 0 else ""
            tabs.append(
                f'<input type="radio" name="{name}" id="{name}-{place}"{checked}>'
                f'<label for="{name}-{place}"><img src="{source}" alt="{alt}" width="96" height="96"></label>'
            )
            bars = "".join(
                f'<li><span class="word">{escape(str(word).strip() or "?")}</span><span class="bar" style="--p:{share}"></span>{share:.0%}</li>'
                for word, share in face["top"]
            )
            panels.append(
                f'<div class="panel p{place}"><p class="answer">{escape(face["answer"])}</p><ol class="bars">{bars}</ol></div>'
            )
        out.append(
            f'<div class="swap"><p class="question">{escape(row["question"])}</p>{"".join(tabs)}{"".join(panels)}</div>'
        )
    return f'<section id="swap"><h2>Does it look? Choose a picture</h2>{"".join(out)}</section>'


def over_time(root: Path, stages: dict[str, Path]) -> str:
    """Fixed pictures and what the model said about them as it learned."""
    out = []
    for name, run in stages.items():
        rows, config = read_lines(run / "predictions.jsonl"), run / "config.yaml"
        if not rows or not config.exists():
            continue
        from configs.load import load_recipe

        source = load_recipe(str(config)).evaluate.source
        by_index: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            by_index.setdefault(row["index"], []).append(row)
        cards = []
        for index, said in list(by_index.items())[:6]:
            latest = {row["step"]: row for row in said}
            lines = "".join(
                f"<li><b>{step}</b> {escape(row['text'])[:120]}</li>" for step, row in sorted(latest.items())
            )
            prompt = f'<p class="question">{escape(said[0]["prompt"])}</p>' if said[0]["prompt"] else ""
            cards.append(
                f'<article><img src="{thumbnail(source, index)}" alt="" width="96" height="96">{prompt}'
                f'<ol class="said">{lines}</ol><p class="truth">truth: {escape(said[0]["truth"])}</p></article>'
            )
        out.append(f'<h3>{escape(name)}</h3><div class="cards">{"".join(cards)}</div>')
    return f'<section id="time"><h2>Six pictures, over time</h2>{"".join(out)}</section>' if out else ""


def mistakes(run: Path, most: int = 36) -> str:
    """Held-out questions: mistakes first, then a sample of what was right."""
    rows = read_lines(run / "evaluation" / "predictions.jsonl")
    shown = read_json(run / "evaluation" / "showcase.json")
    if not rows or not shown:
        return ""
    from pretrain.questions import questions_of
    from pretrain.report.pictures import open_dataset

    place = {q.id: q for q in questions_of(open_dataset(shown["dataset"]))}
    wrong = [row for row in rows if row["answer"] != row["truth"]]
    # The worst are those of the type that is most often right: there a mistake is least excusable.
    by_type: dict[str, list[dict[str, Any]]] = {}
    for row in wrong:
        by_type.setdefault(row["type"], []).append(row)
    share = {name: len(group) / max(1, sum(row["type"] == name for row in rows)) for name, group in by_type.items()}
    worst = sorted(wrong, key=lambda row: (share[row["type"]], row["id"]))[: most * 2 // 3]
    right = [row for row in rows if row["answer"] == row["truth"]]
    chosen = worst + right[:: max(1, len(right) // max(1, most - len(worst)))][: most - len(worst)]
    cards = []
    for row in chosen:
        question = place[row["id"]]
        verdict = "right" if row["answer"] == row["truth"] else "wrong"
        cards.append(
            f'<article class="{verdict}"><img src="{thumbnail(shown["dataset"], question.sample, question.picture)}" alt="" width="96" height="96" loading="lazy">'
            f'<p class="question">{escape(row["question"])}</p><p class="answer">{escape(row["answer"]) or "(nothing)"}</p><p class="truth">truth: {escape(row["truth"])}</p></article>'
        )
    return f'<section id="mistakes"><h2>Held-out questions, mistakes first</h2><p>{len(wrong):,} of {len(rows):,} answers are wrong.</p><div class="cards">{"".join(cards)}</div></section>'


def captions(run: Path, most: int = 24) -> str:
    """Held-out pictures beside what the model says, and the caption it finds among 100."""
    rows, result = read_lines(run / "evaluation" / "captions.jsonl"), read_json(run / "evaluation" / "evaluation.json")
    if not rows or not result:
        return ""
    source = result["caption"]["dataset"]
    ordered = sorted(rows, key=lambda row: row["right"])
    chosen = ordered[: most // 2] + [row for row in ordered if row["right"]][: most // 2]
    cards = "".join(
        f'<article class="{"right" if row["right"] else "wrong"}"><img src="{thumbnail(source, row["sample"])}" alt="" width="96" height="96" loading="lazy">'
        f'<p class="answer">{escape(row["said"])}</p><p class="truth">truth: {escape(row["truth"])}<br>found: {escape(row["retrieved"])}</p></article>'
        for row in chosen
    )
    return (
        f'<section id="captions"><h2>Held-out pictures, mistakes first</h2><div class="cards">{cards}</div></section>'
    )


def scores(stages: dict[str, Path]) -> str:
    """The swap test and the accuracies as tables."""
    out = []
    for run in stages.values():
        result = read_json(run / "evaluation" / "evaluation.json")
        if not result:
            continue
        if "vqa" in result:
            vqa, test = result["vqa"], result["image_swap"]
            rows = [("all", vqa["accuracy"], vqa["text_only"])]
            rows += [(name, share, vqa["text_only_by_type"][name]) for name, share in vqa["by_type"].items()]
            body = "".join(
                f"<tr><th>{escape(name.replace('_', '/'))}</th><td>{a:.1%}</td><td>{b:.1%}</td></tr>"
                for name, a, b in rows
            )
            out.append(
                f"<h2>Questions</h2><table><tr><th></th><th>model</th><th>text only</th></tr>{body}</table><p>Each question in a fresh conversation, answer free-running, {vqa['questions']:,} test questions. Always saying the commonest answer: {vqa['majority']:.1%}.</p>"
            )
            out.append(
                "<h2>Image swap</h2><table><tr><th>picture shown</th><th>loss of the true answer</th></tr>"
                f"<tr><th>its own</th><td>{test['right']:.3f}</td></tr><tr><th>another, with another answer</th><td>{test['wrong']:.3f}</td></tr>"
                f"<tr><th>blank</th><td>{test['blank']:.3f}</td></tr></table>"
                f"<p>Both pictures of a pair answered rightly: <b>{test['pair_accuracy']:.1%}</b> of {test['pairs']:,} pairs. "
                f"Accuracy with a blank picture: {test['blank_accuracy']:.1%}. Paired bootstrap p = {test['p_value']:.4f}.</p>"
            )
        if "caption" in result:
            name = next(key for key in result["caption"] if key.startswith("retrieval"))
            low, high = result["caption"]["interval"]
            out.append(
                f"<h2>Caption retrieval</h2><p>The right caption among {name.rsplit('_', 1)[-1]}: <b>{result['caption'][name]:.1%}</b> (95 % interval {low:.1%} to {high:.1%}; chance {result['caption']['chance']:.0%}).</p>"
            )
    return f'<section id="scores">{"".join(out)}</section>' if out else ""
