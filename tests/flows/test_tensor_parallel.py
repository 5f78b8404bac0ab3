"""The demo's recipe, tensor-parallel: the same command, the same losses."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from pretrain.cli.main import main
from tests.flows.conftest import no_ray


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The held-out emoji as a small training set, and a tokenizer of their captions."""
    folder = tmp_path_factory.mktemp("emoji")
    with contextlib.chdir(folder), no_ray():
        assert main(["data", "build", "demo_emoji_heldout", "--set", "output=data"]) == 0
        assert main(["data", "tokenizer", "data", "--out", "tokens", "--vocab", "600"]) == 0
    return folder


def losses(folder: Path, run: str, *settings: str) -> list[float]:
    overrides = [
        "data.sources=[{path: data}]",
        "data.tokenizer=tokens",
        "evaluate.source=null",
        "stage.steps=3",
        "optim.warmup_steps=1",
        "optim.eps=0.001",
        "parallel.precision=fp32",
        *settings,
    ]
    with contextlib.chdir(folder):
        arguments = [argument for item in overrides for argument in ("--set", item)]
        assert main(["train", "demo_caption", "--run", run, *arguments]) == 0
        lines = (folder / run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.slow
def test_demo_recipe_with_tp_2(emoji: Path) -> None:
    """ZeRO-3 x 2 data-parallel against TP 2, fp32, three steps: measured equal to 1e-7; a wrong shard moves the first loss by 1e-1."""
    split = losses(emoji, "dp", "parallel.tp=1")
    cut = losses(emoji, "tp", "parallel.tp=2", "parallel.rows_per_rank=8")
    np.testing.assert_allclose(cut, split, rtol=2e-6)
