"""What the pool's ranks run: evaluation and inspection with small real models."""

from pathlib import Path
from typing import Any

import torch

from data_pipeline.sample import Message
from data_pipeline.stream.batch import NO_TARGET
from data_pipeline.stream.chat import Encoded
from data_pipeline.stream.collate import Ready, collate
from data_pipeline.stream.reader import Dataset
from pretrain.answering import OpenRun
from pretrain.asking import ask
from pretrain.captions import evaluate_captions
from pretrain.generate import Generator
from pretrain.heldout import heldout_loss
from pretrain.inspect import inspect_sample
from pretrain.mesh import Mesh, destroy_mesh
from pretrain.model.inputs import to_inputs
from pretrain.pictures import Pictures, mean_colour
from pretrain.retrieval import caption_scores
from pretrain.shapes import shapes_of
from pretrain.shares import deal, gather
from pretrain.vqa import evaluate_questions
from tests.pretrain.squares import opened, recipe_of


def whole_loss(run: OpenRun, sample: Ready) -> tuple[float, int]:
    """Sum of losses of one sample by itself, through the model's training path; and how many tokens it has learned."""
    length = 96
    batch = collate([[sample]], length, run.geometry, run.chat.pad_id, cnn=bool(run.model.frozen_cnn))
    with torch.no_grad():
        out = run.model(to_inputs(batch, run.mesh.device))
    return float(out.loss_sum), int((batch.targets != NO_TARGET).sum())


def scoring(mesh: Mesh, world: str, kind: str) -> dict[str, Any]:
    """Answers and losses of `ask` and `caption_scores`, and the same one by one through the training path."""
    run = opened(mesh, world, kind)
    dataset = Dataset(f"{world}/asked")
    pictures = Pictures(run, dataset, mean_colour(dataset))
    generator = Generator(run.model, run.chat, run.geometry, mesh)
    questions = ["what color is it?", "is it red?", "red?"]
    places = [(questions[n % 3], n) for n in range(7)]
    wanted = [["red", "a green square: number"][: n % 3] for n in range(7)]  # none, one or two, of several lengths
    prompts = [pictures.prompt([Message("user", "<image>" + text)], n, 0) for text, n in places]
    ids = [[run.chat.continuation(text) for text in texts] for texts in wanted]
    made = ask(generator, prompts, ids, 6)

    def alone(prompt: Any, answer: list[int]) -> float:
        encoded = prompt.encoded
        labels = [False] * len(encoded.ids) + [True] * len(answer)
        joined = Encoded(torch.tensor([*encoded.ids, *answer]).numpy(), torch.tensor(labels).numpy(), encoded.slots)
        total, count = whole_loss(run, Ready(joined, prompt.sizes, images=prompt.images, features=prompt.features))
        assert count == len(answer)
        return total

    plain = [pictures.prompt(None, n, 0) for n in range(4)]
    texts = [run.chat.continuation(text) for text in ("a red square", "blue", "green square: number 7 of many")]
    return {
        "said": [row[0] for row in made],
        "said alone": [generator.answer([prompt], 6)[0].text.strip() for prompt in prompts],
        "losses": [loss for row in made for loss in row[1]],
        "losses alone": [
            alone(prompt, answer) / len(answer)
            for prompt, answers in zip(prompts, ids, strict=True)
            for answer in answers
        ],
        "captions": caption_scores(generator, plain, texts).reshape(-1).tolist(),
        "captions alone": [-alone(prompt, answer) for prompt in plain for answer in texts],
    }


def evaluation(mesh: Mesh, world: str, kind: str, out: str) -> dict[str, Any]:
    """The whole evaluation with fresh weights, as every rank sees it."""
    run = opened(mesh, world, kind)
    asked, captioned = f"{world}/asked", f"{world}/captioned"
    vqa, swap = evaluate_questions(run, Path(out), asked, asked)
    return {"vqa": vqa, "swap": swap, "caption": evaluate_captions(run, Path(out), asked, captioned)}


def losses_of_stored_samples(mesh: Mesh, world: str) -> dict[str, float]:
    """Held-out loss, and the same summed sample by sample."""
    run = opened(mesh, world, "vit")
    pictures = Pictures(run, Dataset(f"{world}/asked"))
    each = [whole_loss(run, pictures.ready(index)) for index in range(len(pictures.dataset))]
    found = heldout_loss(run, pictures)
    count = sum(tokens for _, tokens in each)
    return {**found, "loss alone": sum(loss for loss, _ in each) / count, "tokens alone": count}


def sharing(mesh: Mesh, count: int) -> dict[str, Any]:
    called: list[list[int]] = []

    def work(places: list[int]) -> list[Any]:
        called.append(places)
        return [f"{place} by {mesh.rank} \u00e9" * (place + 1) for place in places]

    return {"dealt": deal(mesh, count, work), "called": called, "gathered": gather(mesh, {"rank": mesh.rank})}


def inspecting(mesh: Mesh, world: str, kind: str, source: str) -> dict[str, Any]:
    """What `looksay inspect` gives twice in one process, and the shapes by arithmetic."""
    destroy_mesh()  # inspection makes its own
    recipe = recipe_of(world, kind, source)
    shown = inspect_sample(recipe, 4, as_json=True)
    assert isinstance(shown, dict)
    sizes = [tuple(picture["size"]) for picture in shown["pictures"]]
    vocabulary = opened(mesh, world, kind, with_model=False).chat.vocab_size
    planned = shapes_of(recipe.model, sizes, shown["text_tokens"], shown["label_tokens"], vocabulary)
    return {"shown": shown, "text": inspect_sample(recipe, 4), "planned": planned}
