"""What the pool's ranks run: evaluation and inspection with small real models."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from data_pipeline.sample import Message
from data_pipeline.stream.batch import NO_TARGET
from data_pipeline.stream.chat import Encoded
from data_pipeline.stream.collate import Ready, collate
from data_pipeline.stream.read.dataset import Dataset
from pretrain.answering import OpenRun
from pretrain.asking import ask
from pretrain.captions import evaluate_captions
from pretrain.generate import Generator, Prompt
from pretrain.heldout import heldout_loss
from pretrain.inspect import inspect_sample
from pretrain.mesh import Mesh, destroy_mesh
from pretrain.model.inputs import to_inputs
from pretrain.model.vlm import make_model
from pretrain.pictures import Pictures, mean_colour
from pretrain.retrieval import caption_scores
from pretrain.shapes import shapes_of
from pretrain.shares import deal, gather
from pretrain.vqa import evaluate_questions
from tests.pretrain.squares import opened, recipe_of
from tests.support.worlds import GEOMETRY, MODEL, PAD, VOCABULARY, batch_of, sample


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


PROMPTS = {  # pictures (width, height), text tokens: the first four are 16 positions long and run together
    "text": ((), 15),
    "one picture": (((16, 8),), 13),
    "three": (((8, 8), (24, 16), (8, 16)), 6),
    "three others": (((8, 24), (16, 16), (8, 8)), 7),
    "short text": ((), 4),
    "large picture": (((24, 24),), 7),
}


def generator_of(
    mesh: Mesh, end: int = -1, fixed_steps: bool = False, scaled: bool = False
) -> tuple[Generator, list[Prompt]]:
    """Fresh weights with a head of their own: a tied one repeats its last token for ever. `end` is the end mark."""
    decoder = MODEL.decoder.model_copy(update={"tied_head": False, "scale_embeddings": scaled})
    net = make_model(MODEL.model_copy(update={"decoder": decoder}), VOCABULARY, mesh, "fp32", "fp32", seed=7)
    chat: Any = SimpleNamespace(pad_id=PAD, end_id=end, vocab_size=VOCABULARY, decode=lambda ids: f"said {ids}")
    made = [sample(100 + n, pictures, text) for n, (pictures, text) in enumerate(PROMPTS.values())]
    prompts = [Prompt(ready.encoded, ready.sizes, images=ready.images) for ready in made]
    return Generator(net, chat, GEOMETRY, mesh, fixed_steps), prompts


def generating(
    mesh: Mesh,
    chosen: list[int] | None = None,
    end: int = -1,
    fixed_steps: bool = False,
    scaled: bool = False,
    **how: Any,
) -> dict[str, Any]:
    """Answers to PROMPTS, and how often the decoder ran."""
    generator, prompts = generator_of(mesh, end, fixed_steps, scaled)
    calls: list[int] = []
    generator.model.decoder.register_forward_hook(lambda module, given, made: calls.append(1))
    answers = generator.answer([prompts[n] for n in chosen or range(len(prompts))], **how)
    return {"answers": [(a.ids, a.text, a.logprobs) for a in answers], "calls": len(calls)}


def without_cache(mesh: Mesh, max_new: int, scaled: bool) -> list[tuple[list[int], list[float]]]:
    """Greedy answers, each token from the whole sequence anew through the training path."""
    generator, prompts = generator_of(mesh, scaled=scaled)
    out = []
    for prompt in prompts:
        ids: list[int] = []
        scores: list[float] = []
        for _ in range(max_new):
            before = prompt.encoded
            encoded = Encoded(
                np.append(before.ids, ids).astype(np.int64), np.zeros(len(before.ids) + len(ids), bool), before.slots
            )
            batch = batch_of([[Ready(encoded, prompt.sizes, images=prompt.images)]])
            with torch.no_grad():
                hidden = generator.model.hidden(to_inputs(batch, mesh.device))[int(batch.segments[0, 2]) - 1]
                logprobs = generator.model.decoder.logits(hidden[None])[0, :VOCABULARY].log_softmax(-1)
            ids.append(int(logprobs.argmax()))
            scores.append(float(logprobs.max()))
        out.append((ids, scores))
    return out
