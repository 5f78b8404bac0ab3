"""The recipes of the families: at published size name by name, and in small through two steps of training."""

import json
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.listing import find_recipes
from configs.load import load_recipe
from configs.model import ModelConfig
from configs.schema import TrainRecipe
from configs.templates import TEMPLATES
from pretrain.cli.main import main
from pretrain.model.hf.families import family_of, match
from pretrain.model.hf.processor import fitted
from tests.families.originals import ORIGINALS, tower_of
from tests.families.sizes import SIZES
from tests.families.test_original_folders import built
from tests.support.pool import Pool

OWN = {"llava": "llava1", "yi_vl": "yi_vl", "qwen_vl": "qwen_vl", "cogvlm": "cogvlm"}
ROWS = sorted(path.stem for path in find_recipes().values() if path.parent.name == "families")
TINY = [name for name in ROWS if name.startswith("tiny_")]
ROW = {"max_tokens": 4096}
"""What the recipe holds pictures to, so that one fits into a row; published: 16384."""


def published_model(name: str) -> ModelConfig:
    if name in SIZES:
        size = SIZES[name]
        return fitted(family_of(size.config, name).model_of(size.config), size.processor)
    module = ORIGINALS[OWN[name]]
    config: dict[str, Any] = dict(module.PUBLISHED)
    tower = tower_of(OWN[name], config)
    config |= {"vision_config": tower} if tower else {}
    return family_of(config, name).model_of(config)


def test_every_row_of_the_course_is_there() -> None:
    published = [*SIZES, *OWN]
    assert sorted(ROWS) == sorted([*published, *(f"tiny_{name}" for name in published)])


@pytest.mark.parametrize("name", [*SIZES, *OWN])
def test_a_recipe_is_the_published_model(name: str) -> None:
    recipe: Any = load_recipe(name)
    mine, wanted = (model.model_dump() for model in (recipe.model, published_model(name)))
    if mine["resolution"]["type"] == "native":
        wanted["resolution"] |= ROW
    assert mine == wanted
    assert recipe.data.packing.length <= recipe.model.decoder.max_length


@pytest.mark.parametrize("name", SIZES)
def test_published_names_and_shapes(name: str, transformers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor of transformers' class has a rule and its shape, every tensor of ours comes out of one."""
    size = SIZES[name]
    with torch.device("meta"):
        config = getattr(transformers, f"{size.kind}Config")(**size.config)
        theirs = getattr(transformers, f"{size.kind}ForConditionalGeneration")(config)
    shapes = {key: tuple(value.shape) for key, value in theirs.named_parameters()}
    assert abs(sum(p.numel() for p in theirs.parameters()) / 1e9 - size.billions) < 0.006
    folder: Any = types.SimpleNamespace(
        folder=Path("published"), config=size.config, names=sorted(shapes), shape=shapes.__getitem__
    )
    matched = match(folder)
    assert {source for _, source in matched.pairs} | set(matched.aside) == shapes.keys()
    assert built(matched.model, monkeypatch) == {rule.ours: rule.shape for rule, _ in matched.pairs}


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_row_trains(name: str, pool: Pool, squares: Path, tmp_path: Path) -> None:
    """Its template's tokenizer, then two steps under ZeRO-3 x TP 2 of text and pictures of several sizes."""
    tokens = str(tmp_path / "tokens")
    assert main(["data", "tokenizer", f"{squares}/asked", "--out", tokens, "--vocab", "640", "--recipe", name]) == 0
    recipe: Any = load_recipe(name)
    assert isinstance(recipe, TrainRecipe)
    tree = json.loads(recipe.model_dump_json())
    assert recipe.data.template.user == TEMPLATES[_preset(name)]["user"]
    parts = {
        "model": tree["model"],
        "data": {"tokenizer": tokens, "template": tree["data"]["template"], "packing": tree["data"]["packing"]},
        "stage": {"steps": 2, "kind": "sft", "train": tree["stage"]["train"]},
        "parallel": {"zero": 3, "tp": 2, "precision": "bf16", "rows_per_rank": 4},
        "log": {"to": []},
    }
    world = {"world": str(squares), "run": str(tmp_path / "run"), "parts": parts}
    for result in pool.run("tests.pretrain.training_cases:trained", 2, 2, **world):
        assert (result["did"], result["refused"]) == (2, None)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2 and all(0 < loss < 20 for loss in losses)


def _preset(name: str) -> str:
    row = name.removeprefix("tiny_")
    return {"llava": "vicuna", "llava15": "vicuna", "llava_next": "llava_next_mistral", "qwen25_vl": "qwen2_vl"}.get(
        row, row
    )
