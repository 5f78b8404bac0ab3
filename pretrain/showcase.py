"""showcase.json for the report: one question with its picture, another's and a blank one, and how the answer changes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from data_pipeline.storage import put
from pretrain.answering import OpenRun
from pretrain.generate import Generator
from pretrain.pictures import Pictures
from pretrain.questions import Question

PREFERRED = ("shape", "colour", "yes_no", "other")
SHOWN, LIKELIEST, LONGEST = 3, 4, 12
"""Rows of the showcase; first tokens listed for each picture; most tokens of an answer."""


def write_showcase(
    opened: OpenRun,
    folder: Path,
    generator: Generator,
    pictures: Pictures,
    questions: Sequence[Question],
    pairs: Sequence[tuple[int, int]],
    hits: Sequence[bool],
    gaps: Mapping[int, float],
) -> None:
    """Write the pair of each type that was answered rightly with the widest gap (loss with the other picture - own)."""
    chosen: list[tuple[int, int]] = []
    for wanted in PREFERRED:
        fitting = [(a, b) for a, b in pairs if hits[a] and hits[b] and questions[a].type == wanted]
        chosen += sorted(fitting, key=lambda pair: (-gaps[pair[0]], pair))[:1]
    rows = []
    for a, b in chosen[:SHOWN]:
        own, other = questions[a], questions[b]
        faces = [
            _face(opened, generator, pictures, "own", own, own.sample, own.picture),
            _face(opened, generator, pictures, "other", own, other.sample, other.picture),
            _face(opened, generator, pictures, "blank", own, own.sample, own.picture),
        ]
        rows.append({"question": own.text, "truths": [own.truth, other.truth], "faces": faces})
    colour = [] if pictures.colour is None else pictures.colour.tolist()
    shown = {"dataset": pictures.dataset.folder, "blank": colour, "rows": rows}
    put(str(folder / "showcase.json"), json.dumps(shown, ensure_ascii=False).encode())


def _face(
    opened: OpenRun,
    generator: Generator,
    pictures: Pictures,
    name: str,
    question: Question,
    sample: int,
    picture: int,
) -> dict[str, Any]:
    """What the model says to `question` about one picture, and the likeliest first tokens with their probabilities."""
    blank = name == "blank"
    prompt = pictures.prompt(question.messages, sample, picture, blank=blank)
    with torch.no_grad():
        hidden, cache = generator.prefill([prompt], LONGEST)
        values, tokens = generator.logprobs(hidden)[0].exp().topk(LIKELIEST)
        text = generator.grow(hidden, cache, LONGEST)[0].text
    top = [[opened.chat.token(int(t)), round(float(v), 4)] for v, t in zip(values, tokens, strict=True)]
    place = {"sample": -1, "number": -1} if blank else {"sample": sample, "number": picture}
    return {"picture": name, **place, "answer": text, "top": top}
