"""Question answering: accuracy against what can be had without looking, and the image-swap test.

Each (question, picture) is run once: its free answer, the loss of its true answer, and the loss of the answer that is
true of another picture (the swap) all come from one prefill.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import UserError
from data_pipeline.storage import put
from data_pipeline.stream.read.dataset import Dataset
from pretrain.answering import OpenRun
from pretrain.asking import ask
from pretrain.baselines import TextOnly, accuracy
from pretrain.generate import Generator
from pretrain.heldout import heldout_loss
from pretrain.pictures import Pictures, mean_colour
from pretrain.questions import Question, questions_of
from pretrain.shares import deal
from pretrain.showcase import write_showcase
from pretrain.swap import make_pairs, swap_scores

LONGEST_ANSWER, SHORTEST_ROOM = 64, 12
"""Most tokens of an answer: as many as the longest true one has, within these."""


def evaluate_questions(opened: OpenRun, folder: Path, train: str, test: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(accuracies, image-swap test) of the questions of dataset `test`; `train` fits the baseline. All ranks call it.

    Writes predictions.jsonl and showcase.json into `folder`.

    Raises:
        UserError: a dataset holds no question about a single picture.
    """
    fitted, dataset = questions_of(Dataset(train)), Dataset(test)
    questions = questions_of(dataset)
    if not questions or not fitted:
        where = train if questions else test
        raise UserError(f"{where} holds no questions about single pictures: give a dataset of messages")
    blind = TextOnly([q.text for q in fitted], [q.truth for q in fitted])
    pictures = Pictures(opened, dataset, mean_colour(Dataset(train)))
    generator = Generator(opened.model, opened.chat, opened.geometry, opened.mesh)
    pairs = make_pairs(questions)
    answers, right, wrong = _shown(opened, generator, pictures, questions, pairs)
    blank_answers, blank = _blank(opened, generator, pictures, questions)
    truths = [q.truth for q in questions]
    scores, text_only = accuracy(answers, truths), accuracy([blind(q.text) for q in questions], truths)
    vqa = {
        "accuracy": scores.pop("all"),
        "by_type": scores,
        "text_only": text_only.pop("all"),
        "text_only_by_type": text_only,
        "majority": accuracy([blind.majority] * len(truths), truths)["all"],
        "questions": len(questions),
        "heldout_loss": heldout_loss(opened, pictures),
    }
    hits = [answer == truth for answer, truth in zip(answers, truths, strict=True)]
    swap = swap_scores(pairs, right, wrong, blank, hits)
    swap["blank_accuracy"] = accuracy(blank_answers, truths)["all"]
    if opened.mesh.is_first:
        _write_predictions(folder, questions, answers, right)
        gaps = {a: wrong[n] - right[a] for n, (a, _) in enumerate(pairs)}
        write_showcase(opened, folder, generator, pictures, questions, pairs, hits, gaps)
    return vqa, swap


def _write_predictions(
    folder: Path, questions: Sequence[Question], answers: Sequence[str], losses: Sequence[float]
) -> None:
    """A line a question; `loss` is the true answer's: how much the truth surprises."""
    lines = []
    for q, answer, loss in zip(questions, answers, losses, strict=True):
        row = {"id": q.id, "type": q.type, "answer": answer, "truth": q.truth, "loss": round(loss, 4)}
        row |= {"question": q.text, "image_id": q.image_id}
        lines.append(json.dumps(row, ensure_ascii=False))
    put(str(folder / "predictions.jsonl"), ("\n".join(lines) + "\n").encode())


def _room(opened: OpenRun, questions: Sequence[Question]) -> int:
    longest = max(len(opened.chat.continuation(truth)) for truth in {q.truth for q in questions})
    return min(LONGEST_ANSWER, max(SHORTEST_ROOM, longest))


def _shown(
    opened: OpenRun,
    generator: Generator,
    pictures: Pictures,
    questions: Sequence[Question],
    pairs: Sequence[tuple[int, int]],
) -> tuple[list[str], list[float], list[float]]:
    """Answers; losses of each question's truth with its own picture; and of each pair's first with the second's.

    A pair has one question text, so its second question's own prompt *is* the first question with the wrong picture.
    """
    wanted = [[q.truth] for q in questions]
    for a, b in pairs:
        if questions[a].truth not in wanted[b]:
            wanted[b].append(questions[a].truth)
    room = _room(opened, questions)

    def work(places: list[int]) -> list[Any]:
        prompts = [pictures.prompt(questions[p].messages, questions[p].sample, questions[p].picture) for p in places]
        return ask(generator, prompts, [[opened.chat.continuation(t) for t in wanted[p]] for p in places], room)

    made = deal(opened.mesh, len(questions), work)
    right = [losses[0] for _, losses in made]
    wrong = [made[b][1][wanted[b].index(questions[a].truth)] for a, b in pairs]
    return [answer for answer, _ in made], right, wrong


def _blank(
    opened: OpenRun, generator: Generator, pictures: Pictures, questions: Sequence[Question]
) -> tuple[list[str], list[float]]:
    """Answers, and losses of the truths, with a blank picture. Equal prompts are asked once."""
    keys = [(q.text, pictures.dataset.sizes(q.sample)[q.picture]) for q in questions]
    truths: dict[Any, list[str]] = {}
    example: dict[Any, Question] = {}
    for key, question in zip(keys, questions, strict=True):
        example.setdefault(key, question)
        if question.truth not in truths.setdefault(key, []):
            truths[key].append(question.truth)
    distinct, room = list(truths), _room(opened, questions)

    def work(places: list[int]) -> list[Any]:
        chosen = [example[distinct[p]] for p in places]
        prompts = [pictures.prompt(q.messages, q.sample, q.picture, blank=True) for q in chosen]
        return ask(
            generator, prompts, [[opened.chat.continuation(t) for t in truths[distinct[p]]] for p in places], room
        )

    made = dict(zip(distinct, deal(opened.mesh, len(distinct), work), strict=True))
    losses = [made[key][1][truths[key].index(q.truth)] for key, q in zip(keys, questions, strict=True)]
    return [made[key][0] for key in keys], losses
