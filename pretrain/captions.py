"""Captions of held-out pictures: retrieval of the right one among 100, what the model says, held-out loss."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError
from data_pipeline.sample import IMAGE_MARK
from data_pipeline.storage import put
from data_pipeline.stream.read.dataset import Dataset
from pretrain.answering import OpenRun
from pretrain.caption_metrics import caption_metrics
from pretrain.generate import Generator
from pretrain.heldout import heldout_loss
from pretrain.pictures import Pictures, mean_colour
from pretrain.retrieval import caption_scores, marginal, retrieval_at_1, wilson
from pretrain.shares import deal

AMONG, CHOICE = 100, 0
"""How many captions a picture's own is found among; the seed of their choice, fixed in advance."""
PRIOR = 64
"""Training pictures over which a caption's likelihood without its picture is averaged."""
LONGEST_CAPTION = 24


def evaluate_captions(opened: OpenRun, folder: Path, train: str, heldout: str) -> dict[str, Any]:
    """Retrieval and loss on dataset `heldout`; pictures of `train` say how likely a caption is anyway. All ranks call it.

    Writes captions.jsonl into `folder`.

    Raises:
        UserError: fewer than two captions of single pictures.
    """
    dataset = Dataset(heldout)
    chosen, texts = choose(dataset)
    if len(chosen) < 2:
        raise UserError(f"{heldout} holds {len(chosen)} captions of single pictures: retrieval needs two at least")
    pictures = Pictures(opened, dataset, mean_colour(Dataset(train)))
    generator = Generator(opened.model, opened.chat, opened.geometry, opened.mesh)
    captions = [opened.chat.continuation(text, caption=True) for text in texts]
    priors = _priors(opened, generator, Dataset(train), captions)

    def work(places: list[int]) -> list[Any]:
        prompts = [pictures.prompt(None, chosen[place], 0) for place in places]
        scores = caption_scores(generator, prompts, captions) - priors
        said = generator.answer(prompts, LONGEST_CAPTION)
        hits = retrieval_at_1(scores, places)
        best = scores.argmax(1)
        return [[hit, texts[int(b)], answer.text] for hit, b, answer in zip(hits, best, said, strict=True)]

    rows = deal(opened.mesh, len(chosen), work)
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
        "heldout_loss": heldout_loss(opened, pictures),
        "metrics": caption_metrics([row[2] for row in rows], texts),
        "blind": _blind(generator, pictures, Dataset(train), chosen, texts),
    }


def _blind(
    generator: Generator, pictures: Pictures, train: Dataset, chosen: list[int], texts: list[str]
) -> dict[str, dict[str, float]]:
    """The same metrics of captions that never looked: training's commonest, a random one, the model's of a blank picture."""
    known = [train.conversation(index).text or "" for index in range(len(train))]
    known = [text.replace(IMAGE_MARK, "").strip() for text in known if text]
    by_size = {pictures.dataset.sizes(index)[0]: index for index in chosen}
    answers = generator.answer(
        [pictures.prompt(None, index, 0, blank=True) for index in by_size.values()], LONGEST_CAPTION
    )
    blank = dict(zip(by_size, (answer.text for answer in answers), strict=True))
    said = {"blank": [blank[pictures.dataset.sizes(index)[0]] for index in chosen]}
    if known:  # a dataset of conversations has none
        drawn = np.random.default_rng(CHOICE).choice(len(known), len(chosen))
        said["commonest"] = [min(Counter(known).items(), key=lambda item: (-item[1], item[0]))[0]] * len(chosen)
        said["random"] = [known[number] for number in drawn]
    return {name: caption_metrics(captions, texts) for name, captions in said.items()}


def choose(dataset: Dataset) -> tuple[list[int], list[str]]:
    """AMONG samples of one picture and one caption each, no caption twice, and their captions."""
    by_text: dict[str, int] = {}
    for index in range(len(dataset)):
        text = dataset.read(index).conversation.text
        if text and len(dataset.sizes(index)) == 1:
            by_text.setdefault(text.replace("<image>", ""), index)
    texts = {index: text for text, index in by_text.items()}
    usable = sorted(texts)
    chosen = sorted(np.random.default_rng(CHOICE).permutation(usable)[:AMONG].tolist())
    return chosen, [texts[index] for index in chosen]


def _priors(opened: OpenRun, generator: Generator, train: Dataset, captions: list[list[int]]) -> np.ndarray:
    """log p(caption) of every caption under the model: its mean likelihood over PRIOR training pictures."""
    shown = [(index, picture) for index in range(len(train)) for picture in range(len(train.sizes(index)))]
    if not shown:
        raise UserError(f"{train.folder} holds no picture: give the dataset of captions that the run learned from")
    picked = np.random.default_rng(CHOICE).permutation(len(shown))[:PRIOR]
    pictures = Pictures(opened, train)

    def work(places: list[int]) -> list[Any]:
        prompts = [pictures.prompt(None, *shown[picked[place]]) for place in places]
        return caption_scores(generator, prompts, captions).tolist()

    return marginal(np.array(deal(opened.mesh, len(picked), work)))
