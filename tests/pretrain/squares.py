"""A world of coloured squares: questions about their colour, captions, a tokenizer, and models of fresh weights."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs.schema import RECIPE, TrainRecipe
from data_pipeline.sample import IMAGE_MARK, ImageInfo, Message, Sample, key_of
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.layout import geometry_of
from data_pipeline.stream.tokenizer import train_tokenizer
from pretrain.answering import OpenRun
from pretrain.mesh import Mesh
from pretrain.model.vlm import make_model
from tests.support.datasets import write_dataset

COLOURS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230)}
SIZES = ((56, 56), (84, 56))
VIT = {"type": "native_vit", "patch": 14, "width": 32, "depth": 1, "heads": 2, "mlp_width": 32}
STAGES = {"depths": [1, 1, 1], "widths": [12, 16, 24]}
MODELS: dict[str, dict[str, Any]] = {
    "vit": {"encoder": VIT, "projector": {"type": "pixel_shuffle_mlp", "factor": 2}},
    "cnn": {"encoder": {"type": "efficientnet_lite0"}, "projector": {"type": "mlp"}},
    "resnet": {"encoder": {"type": "resnet", **STAGES, "stem": 8}, "projector": {"type": "mlp", "norm": True}},
    "pooled": {"encoder": {"type": "convnext", **STAGES, "pool": "mean"}, "projector": {"type": "linear"}},
}


def square(number: int) -> tuple[str, bytes, tuple[int, int]]:
    """(colour, PNG, size) of picture `number`."""
    colour, size = list(COLOURS)[number % 3], SIZES[number // 3 % 2]
    pixels = np.full((size[1], size[0], 3), COLOURS[colour], np.uint8)
    pixels[number % size[1], :, :] = number  # no two are the same
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return colour, sink.getvalue(), size


def talks(count: int) -> Iterator[Sample]:
    """Two questions a picture; ids of questions run backwards through the samples, as a published file's may."""
    for number in range(count):
        colour, data, size = square(number)
        asked = list(COLOURS)[(number + number // 3) % 3]
        messages = (
            Message("user", IMAGE_MARK + "what color is it?"),
            Message("assistant", colour),
            Message("user", f"is it {asked}?"),
            Message("assistant", "yes" if asked == colour else "no"),
        )
        first = 2 * (count - 1 - number)
        provenance = {"image_ids": [count - 1 - number], "question_ids": [[first, first + 1]]}
        yield Sample(key_of(number), (data,), ("png",), (ImageInfo(*size),), None, messages, provenance)


def captions(count: int) -> Iterator[Sample]:
    for number in range(count):
        colour, data, size = square(number)
        text = f"a {colour} square: number {number}" + " of many" * (number % 4)
        yield Sample(key_of(number), (data,), ("png",), (ImageInfo(*size),), text, None, {})


def make_world(folder: Path) -> Path:
    write_dataset(folder / "asked", talks(18))
    write_dataset(folder / "captioned", captions(14))
    train_tokenizer([str(folder / "asked"), str(folder / "captioned")], str(folder / "tokens"), 300)
    return folder


def recipe_of(world: str, kind: str, source: str = "asked") -> TrainRecipe:
    data = {
        "kind": "train",
        "name": "squares",
        "model": {
            **MODELS[kind],
            "resolution": {"type": "native", "max_tokens": 8},
            "decoder": {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "mlp_width": 64},
            "init_std": 0.1,
        },
        "data": {
            "sources": [{"path": f"{world}/{source}"}],
            "tokenizer": f"{world}/tokens",
            "packing": {"length": 128, "rows_per_step": 4},
        },
        "stage": {"kind": "sft", "steps": 2, "train": {"decoder": 0.001}},
        "parallel": {"precision": "fp32"},
    }
    recipe = RECIPE.validate_python(data)
    assert isinstance(recipe, TrainRecipe)
    return recipe


def opened(mesh: Mesh, world: str, kind: str, with_model: bool = True) -> OpenRun:
    """A run as `open_run` gives it, with fresh weights (or none, for tests that put answers in their place)."""
    recipe = recipe_of(world, kind)
    chat = Chat(recipe.data.tokenizer, recipe.data.template)
    model: Any = make_model(recipe.model, chat.vocab_size, mesh, "fp32", "fp32", 3) if with_model else None
    return OpenRun(recipe, chat, geometry_of(recipe.model), model, mesh, 0)
