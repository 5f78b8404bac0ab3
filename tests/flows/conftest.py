"""A small world that mistakes are planted in: photos, a dataset of them, a tokenizer, recipes, runs."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.load import dump_recipe, load_recipe
from data_pipeline.ingest import job
from data_pipeline.ingest.tasks import InProcess
from pretrain.checkpoint.head import Entry, Heads
from pretrain.cli.main import main
from tests.families.conftest import transformers  # noqa: F401

TRAIN = """extends: tiny_train
name: mine
data: {sources: [{path: data}], tokenizer: tokens}
"""
BUILD = """kind: build
name: mine
source: {type: folder, path: photos}
output: out
"""


@contextlib.contextmanager
def no_ray() -> Iterator[None]:
    """Builds run in this process inside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "_runner", lambda config, log: contextlib.nullcontext(InProcess()))
        yield


@pytest.fixture(scope="session")
def good_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world without a mistake, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "photos").mkdir()
    random = np.random.default_rng(0)
    for number in range(6):
        pixels = random.integers(0, 255, (40, 30 + 8 * number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
        (folder / "photos" / f"{number}.txt").write_text(f"a picture of noise, the number {number}")
    (folder / "mine.yaml").write_text(TRAIN)
    (folder / "build.yaml").write_text(BUILD)
    with contextlib.chdir(folder), no_ray():
        assert main(["data", "build", "photos", "data"]) == 0
        assert main(["data", "tokenizer", "data", "--out", "tokens", "--vocab", "300"]) == 0
        for run in ("run", "new_run"):
            Path(run).mkdir()
            Path(run, "config.yaml").write_text(dump_recipe(load_recipe("mine.yaml")))
        heads = Heads("run/checkpoints")
        claimed = heads.claim()
        entry = Entry(10, claimed.generation, "step-00000010.g00000001", "0", 0.0)
        heads.change(claimed.generation, lambda head: replace(head, entries=(entry,)))
        assert main(["train", "mine.yaml", "--dry-run"]) == 0, "the world is wrong before any mistake is planted"
    return folder


@pytest.fixture
def world(good_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the world to spoil, as the working folder."""
    folder = tmp_path / "world"
    shutil.copytree(good_world, folder)
    monkeypatch.chdir(folder)
    with no_ray():
        yield folder
