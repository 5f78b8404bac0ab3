"""Scores of a run: question answering against blind baselines, the image-swap test, caption retrieval.

Each rank holds a whole copy of the weights (no ZeRO, no TP) and does its share; results meet in files of the output
folder. Nothing here is a collective but the features' computation and the barriers.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from configs.errors import UserError
from data_pipeline.storage import put
from data_pipeline.stream.reader import Dataset
from pretrain.answering import OpenRun, open_run
from pretrain.baselines import TextOnly, accuracy
from pretrain.generate import Generator
from pretrain.mesh import Mesh
from pretrain.pictures import Pictures, mean_colour
from pretrain.questions import Question, questions_of
from pretrain.retrieval import caption_scores, retrieval_at_1, wilson
from pretrain.swap import bootstrap_p, make_pairs, pair_accuracy

RETRIEVAL = 100
LONGEST_ANSWER = 12


def evaluate(
    mesh: Mesh, run: str, out: str, vqa: dict[str, str] | None = None, caption: dict[str, str] | None = None
) -> dict[str, Any]:
    """Evaluate RUN[@STEP] and write OUT/evaluation.json (and predictions.jsonl for questions). All ranks call it.

    Args:
        vqa: {"train": dataset, "test": dataset}: questions; train fits the text-only baseline.
        caption: {"train": dataset, "heldout": dataset}: pictures with captions.
    Raises:
        UserError: nothing to evaluate, or no questions or captions in what was given.
    """
    if not vqa and not caption:
        raise UserError("evaluate has no data: give a dataset of questions or of captions")
    start = time.perf_counter()
    opened = open_run(run, mesh)
    folder = Path(out)
    results: dict[str, Any] = {"run": run, "step": opened.step}
    if vqa:
        results["vqa"], results["image_swap"] = _questions(opened, folder, vqa["train"], vqa["test"])
    if caption:
        results["caption"] = _captions(opened, folder, caption["train"], caption["heldout"])
    results["seconds"] = time.perf_counter() - start
    if mesh.is_first:
        put(str(folder / "evaluation.json"), json.dumps(results, indent=1).encode())
        print(summary_of(results), flush=True)
    return results


def _exchange(opened: OpenRun, folder: Path, name: str, mine: Any) -> list[Any]:
    """Every rank's part, in order of rank, through files of the output folder."""
    mesh = opened.mesh
    if mesh.world == 1:
        return [mine]
    put(str(folder / "parts" / f"{name}-{mesh.rank}.json"), json.dumps(mine).encode())
    dist.barrier()
    parts = [json.loads((folder / "parts" / f"{name}-{rank}.json").read_bytes()) for rank in range(mesh.world)]
    dist.barrier()
    return parts


def _deal(opened: OpenRun, folder: Path, name: str, count: int, work: Any) -> list[Any]:
    """work(places) -> results for this rank's share of `count` places; returns all results in order."""
    mesh = opened.mesh
    parts = _exchange(opened, folder, name, work(list(range(mesh.rank, count, mesh.world))))
    out: list[Any] = [None] * count
    for rank, part in enumerate(parts):
        out[rank :: mesh.world] = part
    return out


# ---- questions ----------------------------------------------------------------------------------------------------


def _questions(opened: OpenRun, folder: Path, train: str, test: str) -> tuple[dict[str, Any], dict[str, Any]]:
    fitted, dataset = questions_of(Dataset(train)), Dataset(test)
    questions = questions_of(dataset)
    if not questions or not fitted:
        raise UserError(
            f"{test if fitted else train} holds no questions (messages of user and assistant): nothing to evaluate"
        )
    blind = TextOnly([q.text for q in fitted], [q.truth for q in fitted])
    pictures = Pictures(opened, dataset, mean_colour(Dataset(train)))
    generator = Generator(opened.model, opened.chat, opened.geometry, opened.mesh)

    def answer(places: list[int]) -> list[str]:
        prompts = [pictures.prompt(questions[p].messages, questions[p].sample, questions[p].picture) for p in places]
        return [made.text.strip() for made in generator.answer(prompts, LONGEST_ANSWER)]

    answers = _deal(opened, folder, "answers", len(questions), answer)
    truths = [q.truth for q in questions]
    scores = accuracy(answers, truths)
    text_only = accuracy([blind(q.text) for q in questions], truths)
    vqa = {
        "accuracy": scores["all"],
        "by_type": {name: share for name, share in scores.items() if name != "all"},
        "text_only": text_only["all"],
        "text_only_by_type": {name: share for name, share in text_only.items() if name != "all"},
        "majority": accuracy([blind.majority] * len(truths), truths)["all"],
        "questions": len(questions),
    }
    if opened.mesh.is_first:
        _write_predictions(folder, questions, answers)
    return vqa, _swap(opened, folder, generator, pictures, questions, answers)


def _write_predictions(folder: Path, questions: list[Question], answers: list[str]) -> None:
    lines = [
        json.dumps(
            {"id": q.id, "type": q.type, "answer": a, "truth": q.truth, "question": q.text, "image_id": q.image_id}
        )
        for q, a in zip(questions, answers, strict=True)
    ]
    put(str(folder / "predictions.jsonl"), ("\n".join(lines) + "\n").encode())


def _swap(
    opened: OpenRun,
    folder: Path,
    generator: Generator,
    pictures: Pictures,
    questions: list[Question],
    answers: list[str],
) -> dict[str, Any]:
    """Right, wrong and blank picture: mean losses per answer token, p-value, pair accuracy, blank accuracy."""
    pairs = make_pairs(questions)
    ids = {truth: [*opened.chat._text(truth), opened.chat.end_id] for truth in {q.truth for q in questions}}

    def losses(places: list[int]) -> list[list[float]]:
        """Losses of the first question's truth under its own, its partner's and a blank picture."""
        prompts, wanted = [], []
        for place in places:
            own, other = (questions[p] for p in pairs[place])
            prompts.append(pictures.prompt(own.messages, own.sample, own.picture))
            prompts.append(pictures.prompt(own.messages, other.sample, other.picture))
            wanted += [ids[own.truth]] * 2
        scored = generator.score(prompts, wanted)
        return [
            [-scored[2 * n] / len(wanted[2 * n]), -scored[2 * n + 1] / len(wanted[2 * n])] for n in range(len(places))
        ]

    swapped = np.array(_deal(opened, folder, "swap", len(pairs), losses)).reshape(-1, 2)
    blank_loss, blank_right = _blank(opened, folder, generator, pictures, questions, ids)
    right = [answer == question.truth for answer, question in zip(answers, questions, strict=True)]
    blank = np.array([blank_loss[a] for a, _ in pairs])
    result = {
        "right": float(swapped[:, 0].mean()) if len(swapped) else None,
        "wrong": float(swapped[:, 1].mean()) if len(swapped) else None,
        "blank": float(blank.mean()) if len(blank) else None,
        "p_value": bootstrap_p(swapped[:, 0], swapped[:, 1]),
        "pair_accuracy": pair_accuracy(pairs, right),
        "blank_accuracy": float(np.mean(blank_right)),
        "pairs": len(pairs),
    }
    if opened.mesh.is_first:
        _write_showcase(opened, folder, generator, pictures, questions, pairs, right, swapped)
    return result


def _blank(
    opened: OpenRun,
    folder: Path,
    generator: Generator,
    pictures: Pictures,
    questions: list[Question],
    ids: dict[str, list[int]],
) -> tuple[list[float], list[bool]]:
    """Loss of the truth, and whether the answer is right, with a blank picture. Equal prompts are asked once."""
    keys = [(q.text, pictures.dataset.sizes(q.sample)[q.picture]) for q in questions]
    first: dict[Any, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    distinct = list(first)
    both = sorted({(distinct.index(key), q.truth) for key, q in zip(keys, questions, strict=True)})

    def prompt(number: int) -> Any:
        question = questions[first[distinct[number]]]
        return pictures.prompt(question.messages, question.sample, question.picture, blank=True)

    def answer(places: list[int]) -> list[str]:
        return [made.text.strip() for made in generator.answer([prompt(p) for p in places], LONGEST_ANSWER)]

    def loss(places: list[int]) -> list[float]:
        wanted = [ids[both[p][1]] for p in places]
        scored = generator.score([prompt(both[p][0]) for p in places], wanted)
        return [-value / len(tokens) for value, tokens in zip(scored, wanted, strict=True)]

    answers = dict(zip(distinct, _deal(opened, folder, "blank-answers", len(distinct), answer), strict=True))
    scored = dict(zip(both, _deal(opened, folder, "blank-losses", len(both), loss), strict=True))
    number_of = {key: number for number, key in enumerate(distinct)}
    losses = [scored[number_of[key], q.truth] for key, q in zip(keys, questions, strict=True)]
    return losses, [answers[key] == q.truth for key, q in zip(keys, questions, strict=True)]


def _write_showcase(
    opened: OpenRun,
    folder: Path,
    generator: Generator,
    pictures: Pictures,
    questions: list[Question],
    pairs: list[tuple[int, int]],
    right: list[bool],
    swapped: np.ndarray,
) -> None:
    """showcase.json for the report: a few pairs answered rightly, with the first token's likeliest answers."""
    chosen: list[tuple[int, int]] = []
    for wanted in ("shape", "colour", "yes_no"):
        fitting = [
            (float(swapped[n, 1] - swapped[n, 0]), pair)
            for n, pair in enumerate(pairs)
            if right[pair[0]] and right[pair[1]] and questions[pair[0]].type == wanted
        ]
        chosen += [pair for _, pair in sorted(fitting, reverse=True)[:1]]
    rows = []
    for a, b in chosen:
        own, other = questions[a], questions[b]
        prompts = [
            pictures.prompt(own.messages, own.sample, own.picture),
            pictures.prompt(own.messages, other.sample, other.picture),
            pictures.prompt(own.messages, own.sample, own.picture, blank=True),
        ]
        faces = []
        for name, prompt, sample, picture in zip(
            ("own", "other", "blank"),
            prompts,
            (own.sample, other.sample, -1),
            (own.picture, other.picture, -1),
            strict=True,
        ):
            hidden, _ = generator.prefill([prompt], 1)
            values, tokens = generator.logprobs(hidden)[0].exp().topk(4)
            top = [[opened.chat.token(int(t)), round(float(v), 4)] for v, t in zip(values, tokens, strict=True)]
            text = generator.answer([prompt], LONGEST_ANSWER)[0].text
            faces.append({"picture": name, "sample": sample, "number": picture, "answer": text, "top": top})
        rows.append({"question": own.text, "truths": [own.truth, other.truth], "faces": faces})
    blank = [int(value) for value in pictures.colour]
    put(
        str(folder / "showcase.json"),
        json.dumps({"dataset": pictures.dataset.folder, "blank": blank, "rows": rows}).encode(),
    )


# ---- captions -----------------------------------------------------------------------------------------------------


def _captions(opened: OpenRun, folder: Path, train: str, heldout: str) -> dict[str, Any]:
    """Retrieval of the right caption among 100 held-out ones, chosen with a fixed seed."""
    dataset = Dataset(heldout)
    usable = [i for i in range(len(dataset)) if len(dataset.sizes(i)) == 1 and dataset.read(i).conversation.text]
    if len(usable) < 2:
        raise UserError(f"{heldout} holds no captions of single pictures: nothing to retrieve")
    chosen = sorted(np.random.default_rng(0).permutation(usable)[:RETRIEVAL].tolist())
    texts = [dataset.read(i).conversation.text or "" for i in chosen]
    captions = [[*opened.chat._text(text), opened.chat.end_id] for text in texts]
    pictures = Pictures(opened, dataset, mean_colour(Dataset(train)))
    generator = Generator(opened.model, opened.chat, opened.geometry, opened.mesh)
    sizes = sorted({dataset.sizes(i)[0] for i in chosen})
    example = {dataset.sizes(i)[0]: i for i in chosen}
    blank = dict(
        zip(
            sizes,
            caption_scores(generator, [pictures.prompt(None, example[s], 0, True) for s in sizes], captions),
            strict=True,
        )
    )

    def hits(places: list[int]) -> list[Any]:
        if not places:
            return []
        mine = [chosen[p] for p in places]
        scores = caption_scores(generator, [pictures.prompt(None, i, 0) for i in mine], captions)
        scores -= np.stack([blank[dataset.sizes(i)[0]] for i in mine])
        made = generator.answer([pictures.prompt(None, i, 0) for i in mine], 24)
        found = retrieval_at_1(scores, places)
        best = scores.argmax(1)
        return [[hit, texts[int(b)], answer.text] for hit, b, answer in zip(found, best, made, strict=True)]

    rows = _deal(opened, folder, "captions", len(chosen), hits)
    right = sum(row[0] for row in rows)
    if opened.mesh.is_first:
        lines = [
            json.dumps({"sample": i, "truth": t, "retrieved": r[1], "right": r[0], "said": r[2]}, ensure_ascii=False)
            for i, t, r in zip(chosen, texts, rows, strict=True)
        ]
        put(str(folder / "captions.jsonl"), ("\n".join(lines) + "\n").encode())
    return {
        f"retrieval_at_1_of_{len(chosen)}": right / len(chosen),
        "interval": list(wilson(right, len(chosen))),
        "chance": 1 / len(chosen),
        "dataset": heldout,
    }


def summary_of(results: dict[str, Any]) -> str:
    """The table that the console shows."""
    lines = [f"evaluation of {results['run']} (step {results['step']})"]
    if "vqa" in results:
        vqa, swap = results["vqa"], results["image_swap"]
        lines.append(
            f"  questions      {vqa['accuracy']:.3f}   text only {vqa['text_only']:.3f}   majority {vqa['majority']:.3f}   n {vqa['questions']}"
        )
        lines += [
            f"    {name:<12} {share:.3f}   text only {vqa['text_only_by_type'][name]:.3f}"
            for name, share in vqa["by_type"].items()
        ]
        lines.append(
            f"  image swap     pairs {swap['pair_accuracy']:.3f}   blank picture {swap['blank_accuracy']:.3f}   "
            f"loss right/wrong/blank {swap['right']:.3f}/{swap['wrong']:.3f}/{swap['blank']:.3f}   p {swap['p_value']:.4f}"
        )
    if "caption" in results:
        name = next(key for key in results["caption"] if key.startswith("retrieval"))
        low, high = results["caption"]["interval"]
        lines.append(
            f"  {name.replace('_', ' ')}   {results['caption'][name]:.3f}   95 % interval {low:.3f}-{high:.3f}   chance {results['caption']['chance']:.3f}"
        )
    return "\n".join(lines)
