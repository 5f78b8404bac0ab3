"""Does it look? One question, two pictures and a blank to choose between, and the test behind it."""

from html import escape
from pathlib import Path
from typing import Any

from pretrain.report.folder import read_json
from pretrain.report.markup import section, table
from pretrain.report.pictures import blank, thumbnail
from pretrain.report.plots import bars

SHOWN_FROM = 0.005
"""Probability from which a word is worth a bar."""


def choose(run: Path) -> str:
    """The interactive part, on top of the page: the answer follows the picture. Works without script."""
    shown = read_json(run / "evaluation" / "showcase.json")
    if not shown or not shown["rows"]:
        return ""
    cards = "".join(_card(number, row, shown) for number, row in enumerate(shown["rows"]))
    return section(
        "swap",
        "Does it look?",
        cards,
        "The question stays, the picture changes. Choose one (or use the arrow keys): the answer is the trained model's own.",
    )


def _card(number: int, row: dict[str, Any], shown: dict[str, Any]) -> str:
    tabs, panels = [], []
    for place, face in enumerate(row["faces"]):
        empty = face["sample"] < 0
        side = 144 if number == 0 else 88
        source = blank(tuple(shown["blank"])) if empty else thumbnail(shown["dataset"], face["sample"], face["number"])
        name = "blank" if empty else f"picture {place + 1}"
        one = f"swap{number}-{place}"
        tabs.append(
            f'<input type="radio" name="swap{number}" id="{one}" aria-describedby="{one}-says"{" checked" if place == 0 else ""}>'
            f'<label for="{one}"><img src="{source}" alt="{name}" width="{side}" height="{side}"><span>{name}</span></label>'
        )
        truth = "" if empty else f'<span class="truth">truth: {escape(str(row["truths"][min(place, 1)]))}</span>'
        panels.append(
            f'<div class="panel p{place}" id="{one}-says"><p class="answer">{escape(face["answer"]) or "(nothing)"} {truth}</p>{_words(face["top"])}</div>'
        )
    return (
        f'<fieldset class="swap{" hero" if number == 0 else ""}"><legend class="question">{escape(row["question"])}</legend>'
        f"{''.join(tabs)}{''.join(panels)}</fieldset>"
    )


def _words(top: list[list[Any]]) -> str:
    kept = [(str(word).strip() or "(space)", float(share)) for word, share in top if share >= SHOWN_FROM]
    rows = "".join(
        f'<li><span class="word">{escape(word)}</span><span class="bar" style="--p:{share:.4f}"></span><span>{share:.0%}</span></li>'
        for word, share in kept
    )
    return f'<ol class="bars" aria-label="likeliest first words">{rows}</ol>' if rows else ""


def test(stages: dict[str, Path]) -> str:
    """Accuracies against what can be had blind, and the swap test's losses."""
    out = []
    for run in stages.values():
        result = read_json(run / "evaluation" / "evaluation.json") or {}
        if "vqa" in result:
            out += [_accuracies(result["vqa"], result["image_swap"]), _losses(result["image_swap"])]
        if "caption" in result:
            out.append(_retrieval(result["caption"]))
    return section("scores", "The swap test, and the scores", "".join(out))


def _accuracies(vqa: dict[str, Any], swap: dict[str, Any]) -> str:
    blind = vqa["text_only_by_type"]
    rows = [("all", f"{vqa['accuracy']:.1%}", f"{vqa['text_only']:.1%}")]
    rows += [
        (escape(name.replace("_", "/")), f"{share:.1%}", f"{blind.get(name, 0.0):.1%}")
        for name, share in vqa["by_type"].items()
    ]
    rows.append(("all, blank picture", f"{swap['blank_accuracy']:.1%}", ""))
    return (
        table(["", "model", "text only"], rows, "Held-out questions answered rightly")
        + f"<p>Each of {vqa['questions']:,} questions in a fresh conversation, the answer free-running. Text only: the best guess from the "
        f"question alone, fitted on the training set. Always saying the commonest answer: {vqa['majority']:.1%}.</p>"
    )


def _losses(swap: dict[str, Any]) -> str:
    if not swap.get("pairs"):
        return "<p>No swap test: no question text has two different answers.</p>"
    shown = [("its own picture", swap["right"]), ("a blank", swap["blank"]), ("another's picture", swap["wrong"])]
    return (
        bars("Loss of the true answer, shown...", shown)
        + f"<p>A pair is one question about two pictures with different true answers; both answered rightly: "
        f"<b>{swap['pair_accuracy']:.1%}</b> of {swap['pairs']:,} pairs. Right against wrong picture, paired bootstrap: p = {swap['p_value']:.4f}.</p>"
    )


def _retrieval(caption: dict[str, Any]) -> str:
    name = next(key for key in caption if key.startswith("retrieval"))
    low, high = caption["interval"]
    loss = f" Held-out loss {caption['heldout_loss']['loss']:.3f}." if "heldout_loss" in caption else ""
    return (
        f"<p>Captions: the right one found among {escape(name.rsplit('_', 1)[-1])} held-out: <b>{caption[name]:.1%}</b> "
        f"(95 % interval {low:.1%} to {high:.1%}; chance {caption['chance']:.1%}).{loss}</p>"
    )
