"""One training sample as the model sees it: text, ids, image slots, positions, learned tokens, shapes of every part."""

from typing import Any

import torch

from configs.errors import UserError
from configs.schema import TrainRecipe
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.collate import Ready, collate, widen
from data_pipeline.stream.images import decode
from data_pipeline.stream.layout import grid_of
from data_pipeline.stream.tables import OpenData, open_data
from pretrain.mesh import init_mesh
from pretrain.model.inputs import to_inputs
from pretrain.model.vlm import make_model

LEARNED, SLOT, MARK, PLAIN = "\033[32;1m", "\033[36m", "\033[2m", "\033[0m"


def inspect_sample(
    recipe: TrainRecipe, sample: int, colour: bool = True, as_json: bool = False
) -> str | dict[str, Any]:
    """Show sample `sample` of the recipe's first source.

    The course's example: a 224 x 224 picture under a ViT of patch 16 and a text of 4 tokens make 200 positions.

    >>> from data_pipeline.stream.layout import Geometry, layout
    >>> counts = layout(((224, 224),), 4, 0, Geometry(patch=16, merge=1, mode="square", size=224))
    >>> counts.visual_tokens, counts.text_tokens, counts.tokens
    (196, 4, 200)

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
    """Everything as plain values; the shapes come from a real forward pass of a model with fresh weights."""
    dataset = data.datasets[0]
    stored, sizes = dataset.read(sample), dataset.sizes(sample)
    encoded = data.chat.encode(stored.conversation, len(sizes))
    wide = widen(encoded, sizes, data.geometry)
    images = [decode(image) for image in stored.images]
    batch = collate(
        [[Ready(encoded, sizes, images=images)]], len(wide.ids), data.geometry, data.chat.pad_id, cnn=data.cnn
    )
    talk = stored.conversation
    return {
        "key": dataset.keys[sample],
        "text": talk.text,
        "messages": [[message.role, message.content] for message in talk.messages or ()],
        "pictures": [{"size": list(size), "grid": list(grid_of(*size, data.geometry))} for size in sizes],
        "ids": wide.ids.tolist(),
        "slots": wide.slots.tolist(),
        "positions": batch.positions[0, 0].tolist(),
        "targets": batch.targets[0].tolist(),
        "text_tokens": encoded.text_tokens,
        "visual_tokens": len(wide.slots),
        "label_tokens": encoded.label_tokens,
        "shapes": _shapes(recipe, data, batch),
    }


def _shapes(recipe: TrainRecipe, data: OpenData, batch: Any) -> dict[str, list[int]]:
    """Shape after each part of the model, in order."""
    mesh = init_mesh(None, 1)
    parallel = recipe.parallel
    model = make_model(recipe.model, data.chat.vocab_size, mesh, parallel.precision, parallel.math, recipe.seed)
    inputs = to_inputs(batch, mesh.device)
    with torch.no_grad():
        features = model.encode(inputs)
        projected = model.projector(features)
        x = model.embed(inputs.ids, inputs.slots, features)
        hidden = model.decoder(x, inputs.positions, inputs.segments)
        logits = model.decoder.logits(hidden[inputs.picked])
    pixels = [list(image.shape) for image in inputs.images] if inputs.images else []
    shapes = {f"picture {number} pixels": shape for number, shape in enumerate(pixels)}
    if inputs.patches is not None:
        shapes["patches"] = list(inputs.patches.shape)
    return {
        **shapes,
        "encoder": list(features.shape),
        "projector": list(projected.shape),
        "embeddings": list(x.shape),
        "decoder": list(hidden.shape),
        "logits of learned tokens": list(logits.shape),
    }


def as_text(shown: dict[str, Any], chat: Chat, colour: bool) -> str:
    """For a terminal: learned tokens green, image slots cyan (runs joined), marks dim."""

    def paint(code: str, text: str) -> str:
        return f"{code}{text}{PLAIN}" if colour else text

    lines = [f"sample {shown['key']}", f"  text: {shown['text']}" if shown["text"] is not None else ""]
    lines += [f"  {role:>9}: {content}" for role, content in shown["messages"]]
    for number, picture in enumerate(shown["pictures"]):
        (width, height), (rows, columns) = picture["size"], picture["grid"]
        lines.append(
            f"  picture {number}: {width} x {height} pixels -> {rows} x {columns} = {rows * columns} visual tokens"
        )
    learned = {place + 1 for place, target in enumerate(shown["targets"]) if target >= 0}
    slots, parts, run = set(shown["slots"]), [], 0
    for place, number in enumerate([*shown["ids"], -1]):
        if place in slots:
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
        "shapes:",
        *(f"  {name:<26} {' x '.join(str(n) for n in shape)}" for name, shape in shown["shapes"].items()),
    ]
    return "\n".join(line for line in lines if line is not None)


def _short(values: list[int], most: int = 24) -> str:
    text = " ".join(str(value) for value in values[:most])
    return text + (f" ... ({len(values)} in all)" if len(values) > most else "")
