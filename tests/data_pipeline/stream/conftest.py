"""Two small datasets, a tokenizer, and recipes over them."""

from pathlib import Path
from typing import Any

import pytest

from configs.data import TemplateConfig
from configs.schema import RECIPE, TrainRecipe
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.tokenizer import train_tokenizer
from tests.support.datasets import samples, write_dataset

VIT = {
    "encoder": {"type": "native_vit", "patch": 14, "width": 32, "depth": 1, "heads": 2, "mlp_width": 32},
    "resolution": {"type": "native", "min_tokens": 1, "max_tokens": 8},
    "projector": {"type": "pixel_shuffle_mlp", "factor": 2},
    "decoder": {"layers": 1, "width": 32, "heads": 2, "kv_heads": 1, "mlp_width": 32},
}
CNN = {
    "encoder": {"type": "efficientnet_lite0"},
    "resolution": {"type": "native", "min_tokens": 1, "max_tokens": 8},
    "projector": {"type": "mlp"},
    "decoder": {"layers": 1, "width": 32, "heads": 2, "kv_heads": 1, "mlp_width": 32},
}


@pytest.fixture(scope="session")
def transformers() -> Any:
    """The library, offline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        return pytest.importorskip("transformers", reason="parity needs transformers: make install-dev")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    write_dataset(folder / "captions", samples(90, 1))
    write_dataset(folder / "talks", samples(50, 2, talk=True))
    train_tokenizer([str(folder / "captions"), str(folder / "talks")], str(folder / "tokens"), 400)
    return folder


@pytest.fixture(scope="session")
def chat(world: Path) -> Chat:
    return Chat(str(world / "tokens"), TemplateConfig())


def train_recipe(world: Path, cnn: bool = False, rows_per_rank: int = 2, **more: Any) -> TrainRecipe:
    data = {
        "kind": "train",
        "name": "test",
        "model": CNN if cnn else VIT,
        "data": {
            "sources": [{"path": str(world / "captions"), "weight": 2}, {"path": str(world / "talks")}],
            "tokenizer": str(world / "tokens"),
            "packing": {"length": 128, "rows_per_step": 6, "window_steps": 3},
            "chunk": 8,
            "workers": 0,
            **more,
        },
        "stage": {"kind": "caption", "steps": 24, "train": {"projector": 0.001, "decoder": 0.001}},
        "optim": {"warmup_steps": 0},
        "parallel": {"rows_per_rank": rows_per_rank},
    }
    recipe = RECIPE.validate_python(data)
    assert isinstance(recipe, TrainRecipe)
    return recipe
