"""One training sample as the model sees it: text, ids, image slots, positions, learned tokens, shapes of every part."""

from typing import Any

import torch

from configs.errors import UserError
from configs.schema import TrainRecipe
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.collate import Ready, collate, widen
from data_pipeline.stream.images import decode
from data_pipeline.stream.layout import geometry_of, picture_layout
from data_pipeline.stream.tables import OpenData, open_data
from pretrain.mesh import alone
from pretrain.model.inputs import to_inputs
from pretrain.model.vlm import make_model
from pretrain.shapes import parameters_of, shapes_of

LARGE = 100_000_000
"""Parameters of a model that is not made just to look at shapes."""
LEARNED, SLOT, MARK, PLAIN = "\033[32;1m", "\033[36m", "\033[2m", "\033[0m"


def inspect_sample(
    recipe: TrainRecipe, sample: int, colour: bool = True, as_json: bool = False
) -> str | dict[str, Any]:
    """Show sample `sample` of the recipe's first source: text for a terminal, or plain values.

    Raises:
        UserError: there is no such sample.
    """
    data = open_data(recipe)
    dataset = data.datasets[0]
    if not 0 <= sample < len(dataset):
        raise UserError(f"--sample {sample} is not in {dataset.folder}: it has samples 0 to {len(dataset) - 1}")
    shown = describe(recipe, data, sample)
    return shown if as_json else as_text(shown, data.chat, colour)


def describe(recipe: TrainRecipe, data: OpenData, sample: int) -> dict[str, Any]:
    """Everything as plain values; shapes of a small model are those of a forward pass with fresh weights."""
    dataset = data.datasets[0]
    stored, sizes = dataset.read(sample), dataset.sizes(sample)
    encoded = data.chat.encode(stored.conversation, len(sizes))
    wide = widen(encoded, sizes, data.geometry)
    images = [decode(image) for image in stored.images]
    batch = collate(
        [[Ready(encoded, sizes, images=images)]], len(wide.ids), data.geometry, data.chat.pad_id, cnn=data.cnn
    )
    talk, vocabulary = stored.conversation, data.chat.vocab_size
    large = parameters_of(recipe.model, vocabulary) > LARGE
    planned = shapes_of(recipe.model, sizes, encoded.text_tokens, batch.label_tokens, vocabulary)
    return {
        "key": dataset.key(sample),
        "text": talk.text,
        "messages": [[message.role, message.content] for message in talk.messages or ()],
        "pictures": [
            {
                "size": list(size),
                "tokens": planned.tokens,
                "views": [list(grid) for grid in planned.grids],
                **({"pooled": True} if data.geometry.pooled else {}),
            }
            for size, planned in ((size, picture_layout(*size, data.geometry)) for size in sizes)
        ],
        "ids": wide.ids.tolist(),
        "slots": wide.slots.tolist(),
        "positions": batch.positions[0, 0].tolist(),
        "targets": batch.targets[0].tolist(),
        "text_tokens": encoded.text_tokens,
        "visual_tokens": len(wide.slots),
        "label_tokens": encoded.label_tokens,
        "shapes": planned if large else measured_shapes(recipe, vocabulary, batch),
        "measured": not large,
    }


def measured_shapes(recipe: TrainRecipe, vocabulary: int, batch: Batch) -> dict[str, list[int]]:
    """Shape after each part of the model, in order, by running it."""
    parallel = recipe.parallel
    with alone() as mesh, torch.no_grad():
        model = make_model(recipe.model, vocabulary, mesh, parallel.precision, parallel.math, recipe.seed)
        inputs = to_inputs(batch, mesh.device)
        features = model.encode(inputs)
        projected = model.projector(features, max(1, inputs.views))
        x = model.embed(inputs, features)
        hidden = model.decoder(x, inputs.positions, inputs.segments, routes=model.routes(inputs))
        logits = model.decoder.logits(hidden[inputs.picked])
    shapes = {f"picture {n} pixels": list(image.shape) for n, image in enumerate(batch.vision.images or ())}
    if batch.vision.patches is not None:
        shapes |= {f"picture {n} pixels": shape for n, shape in enumerate(_pixels(recipe, batch))}
        shapes["patches"] = list(batch.vision.patches.shape)
    parts = {"encoder": features, "projector": projected, "embeddings": x, "decoder": hidden}
    return {
        **shapes,
        **{name: list(tensor.shape) for name, tensor in parts.items()},
        "logits of learned tokens": list(logits.shape),
    }


def _pixels(recipe: TrainRecipe, batch: Batch) -> list[list[int]]:
    cell = geometry_of(recipe.model).cell
    return [[int(rows) * cell, int(columns) * cell, 3] for rows, columns in batch.vision.grids]


def as_text(shown: dict[str, Any], chat: Chat, colour: bool) -> str:
    """For a terminal: learned tokens green, image slots cyan (runs joined), marks dim."""

    def paint(code: str, text: str) -> str:
        return f"{code}{text}{PLAIN}" if colour else text

    lines = [f"sample {shown['key']}"]
    if shown["text"] is not None:
        lines.append(f"  text: {shown['text']}")
    lines += [f"  {role:>9}: {content}" for role, content in shown["messages"]]
    for number, picture in enumerate(shown["pictures"]):
        width, height = picture["size"]
        views = " + ".join(f"{rows} x {columns}" for rows, columns in picture["views"])
        made = ", each its mean" if picture.get("pooled") else ""
        lines.append(
            f"  picture {number}: {width} x {height} pixels -> {views}{made} = {picture['tokens']} visual tokens"
        )
    learned = {place + 1 for place, target in enumerate(shown["targets"]) if target >= 0}
    slots, parts, run = set(shown["slots"]), [], 0
    for place, number in enumerate([*shown["ids"], -1]):
        if place in slots and number == chat.image_id:  # a text between tiles is shown as text
            run += 1
            continue
        if run:
            parts.append(paint(SLOT, f"[{chat.token(chat.image_id)} x {run}]"))
            run = 0
        if number >= 0:
            token = chat.token(number).replace("\n", "\\n")
            code = LEARNED if place in learned else MARK if number in chat.special_ids else ""
            parts.append(paint(code, token) if code else token)
    total = len(shown["ids"])
    lines += [
        "",
        "tokens (learned ones green):" if colour else "tokens (learned ones listed below):",
        "  " + "|".join(parts),
        f"  {shown['text_tokens']} text + {shown['visual_tokens']} visual = {total} positions, {shown['label_tokens']} learned",
        f"  ids        {_short(shown['ids'])}",
        f"  positions  {_short(shown['positions'])}",
        f"  slots      {_short(shown['slots'])}",
        f"  learned at {_short(sorted(learned))}",
        "",
        "shapes:" if shown["measured"] else "shapes (by arithmetic: the model is too large to be made for a look):",
        *(f"  {name:<26} {' x '.join(str(n) for n in shape)}" for name, shape in shown["shapes"].items()),
    ]
    return "\n".join(lines)


def _short(values: list[int], most: int = 24) -> str:
    text = " ".join(str(value) for value in values[:most])
    return text + (f" ... ({len(values)} in all)" if len(values) > most else "")
