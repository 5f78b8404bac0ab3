"""The course's worked example, number by number: docs/course, its recipe, and the code that docs/tour.md shows."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.load import load_recipe
from configs.model import ModelConfig
from configs.schema import TrainRecipe
from data_pipeline.ingest.job import build
from data_pipeline.sample import Message
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.collate import Ready, collate, widen
from data_pipeline.stream.geometry import geometry_of
from data_pipeline.stream.images import decode
from data_pipeline.stream.layout import Geometry, layout
from data_pipeline.stream.read.dataset import Dataset
from data_pipeline.stream.tables import open_data
from data_pipeline.stream.tokenizer import train_tokenizer
from pretrain.inspect import describe
from pretrain.shapes import shapes_of
from tests.data_pipeline.conftest import build_recipe
from tests.flows.conftest import no_ray

ROOT = Path(__file__).resolve().parents[3]
SIZES = ((224, 224),)
TURNS = json.loads((ROOT / "docs" / "course" / "cat.json").read_text(encoding="utf-8"))["messages"]
ASKED, ANSWERED = TURNS[0]["content"], TURNS[1]["content"]

PARTS: dict[str, dict[str, Any]] = {
    "linear": {},
    "class token": {"encoder": {"class_token": "keep"}},
    "mlp, anyres": {"projector": {"type": "mlp"}, "resolution": {"type": "anyres", "size": 112}},
    "pixel shuffle, tiles": {
        "projector": {"type": "pixel_shuffle_mlp"},
        "resolution": {"type": "tiles", "size": 128},
    },
    "q-former": {"projector": {"type": "qformer", "width": 24, "heads": 2, "mlp_width": 24, "layers": 2, "queries": 5}},
    "resampler": {"projector": {"type": "resampler", "queries": 16, "heads": 2}},
    "perceiver": {"projector": {"type": "perceiver", "queries": 6, "heads": 2, "kv_heads": 1, "head_size": 8}},
    "glu": {"projector": {"type": "glu", "hidden": 32, "ends": True}},
}


def words(text: str) -> list[str]:
    """A text cut as the course cuts it: words with the space before them, and what stands between words."""
    return re.findall(r" ?\w+|[^\w ]", text)


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> TrainRecipe:
    """The recipe over the data that the tour's two commands make."""
    folder = tmp_path_factory.mktemp("course")
    shutil.copytree(ROOT / "docs" / "course", folder / "photos")
    with no_ray():
        build(build_recipe(folder / "photos", folder / "data"), progress=False)
    train_tokenizer([str(folder / "data")], str(folder / "tokens"), 320)
    where = [f"data.sources=[{{path: {folder / 'data'}}}]", f"data.tokenizer={folder / 'tokens'}"]
    recipe = load_recipe("course_example", where)
    assert isinstance(recipe, TrainRecipe)
    return recipe


@pytest.fixture(scope="module")
def talk(course: TrainRecipe) -> Chat:
    return Chat(course.data.tokenizer, course.data.template)


def test_four_tokens_of_text_and_196_of_the_picture_are_200_positions(course: TrainRecipe, talk: Chat) -> None:
    """Step 1 to 5: 224 x 224 x 3 pixels, 196 patches of 768 numbers, 4 tokens, 200 positions in order."""
    pixels = decode(Dataset(course.data.sources[0].path).read(0).images[0])
    assert pixels.shape == (224, 224, 3) and pixels.size == 150_528
    geometry = geometry_of(course.model)
    asked = talk.prompt([Message("user", ASKED)], 1)
    wide = widen(asked, SIZES, geometry)
    assert wide.ids.tolist()[:196] == [talk.image_id] * 196
    assert [talk.token(int(number)) for number in wide.ids[196:]] == words(ASKED.replace("<image>", " "))
    assert (asked.text_tokens, len(wide.slots), len(wide.ids)) == (4, 196, 200)
    assert layout(SIZES, 4, 0, geometry).tokens == 200
    batch = collate([[Ready(asked, SIZES, images=[pixels])]], 200, geometry, talk.pad_id, cnn=False)
    assert batch.vision.patches is not None and batch.vision.patches.shape == (196, 768)
    assert batch.vision.grids.tolist() == [[14, 14]]
    assert batch.positions[0, 0].tolist() == list(range(200))


def test_only_the_answer_is_learned_from_the_last_position_of_the_question_on(course: TrainRecipe, talk: Chat) -> None:
    """Step 6 and 7, and the loss of SFT: the 200th position predicts the answer's first token, which is the 201st."""
    stored = Dataset(course.data.sources[0].path).read(0)
    encoded, images = talk.encode(stored.conversation, 1), [decode(stored.images[0])]
    batch = collate([[Ready(encoded, SIZES, images=images)]], 208, geometry_of(course.model), talk.pad_id, cnn=False)
    learned = np.flatnonzero(batch.targets[0] >= 0)
    assert learned.tolist() == list(range(199, 207))
    said = [talk.token(int(number)) for number in batch.targets[0][learned]]
    assert said == [*words(f" {ANSWERED}"), "<|end|>"]
    assert talk.decode(batch.targets[0][learned[:-1]].tolist()) == ANSWERED


def test_shapes_after_each_part_are_the_courses(course: TrainRecipe) -> None:
    """196 vectors of 1024, 196 of 4096, 200 positions of 4096, logits over a vocabulary of tens of thousands."""
    assert shapes_of(course.model, SIZES, text_tokens=4, learned=1, vocabulary=32_000) == {
        "picture 0 pixels": [224, 224, 3],
        "patches": [196, 768],
        "encoder": [196, 1024],
        "projector": [196, 4096],
        "embeddings": [200, 4096],
        "decoder": [200, 4096],
        "logits of learned tokens": [1, 32_000],
    }


@pytest.mark.parametrize("name", PARTS)
def test_shapes_by_arithmetic_are_those_of_a_forward_pass(name: str, course: TrainRecipe) -> None:
    """For every kind of projector, and for resolutions with more tokens than cells, in small."""
    small = course.model.model_dump(mode="json") | {"decoder": {"layers": 1, "width": 32, "heads": 2, "mlp_width": 32}}
    small["encoder"] |= {"width": 32, "depth": 1, "heads": 2, "mlp_width": 32}
    for part, values in PARTS[name].items():
        small[part] = (small[part] if part == "encoder" else {}) | values
    recipe = course.model_copy(update={"model": ModelConfig.model_validate(small)})
    data = open_data(recipe)
    shown = describe(recipe, data, 0)
    planned = shapes_of(recipe.model, SIZES, shown["text_tokens"], shown["label_tokens"], data.chat.vocab_size)
    assert shown["measured"] and shown["shapes"] == planned


def test_other_numbers_of_the_course() -> None:
    """336 pixels in patches of 14 are 576 tokens; a Q-Former makes 32 of however many there are."""
    assert layout(((336, 336),), 0, 0, Geometry(14, 1, "square", size=336)).tokens == 576
    assert layout(((224, 224),), 4, 0, Geometry(16, 1, "square", size=224, queries=32)).tokens == 36
