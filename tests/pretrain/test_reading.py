"""Batches of a TP group: one rank reads, the others get the same; its errors are everybody's; one planner a node."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.stream.loader import Loader
from pretrain.mesh import Mesh
from pretrain.reading import GroupLoader
from tests.data_pipeline.stream.conftest import train_recipe
from tests.support.datasets import samples, write_dataset
from tests.support.pool import Pool

HERE = "tests.pretrain.test_reading:"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from data_pipeline.stream.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("reading")
    write_dataset(folder / "captions", samples(90, 1))
    write_dataset(folder / "talks", samples(50, 2, talk=True))
    train_tokenizer([str(folder / "captions"), str(folder / "talks")], str(folder / "tokens"), 400)
    return folder


def told(batches: list[Any]) -> list[Any]:
    """What a batch holds, as plain values."""
    return [
        (b.ids.tolist(), b.targets.tolist(), b.vision.slots.tolist(), int(b.vision.patches.sum()), b.rows)
        for b in batches
    ]


def batches(mesh: Mesh, folder: str, planner: str, steps: int) -> dict[str, Any]:
    """Run on every rank: some steps, and the state after them."""
    recipe = train_recipe(Path(folder), rows_per_rank=1, planner=planner)
    made = GroupLoader(recipe, mesh, None, f"{folder}/plan-{mesh.world}-{mesh.tp_size}-{planner}.log")
    try:
        found = [told(made.step(step)) for step in range(steps)]
        reads = made.loader is not None
        state = made.state_dict(steps)
        made.load_state_dict(state)
        again = told(made.step(steps - 1))
        return {"steps": found, "reads": reads, "again": again, "dp": mesh.dp_rank, "state": state}
    finally:
        made.close()


def refused(mesh: Mesh, folder: str) -> str:
    """The sentence with which a rank ends when the data cannot be planned."""
    recipe = train_recipe(Path(folder), packing={"length": 8, "rows_per_step": 6, "window_steps": 3})
    made = GroupLoader(recipe, mesh, None, f"{folder}/refused.log")
    try:
        made.step(0)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        made.close()
    return "nothing was raised"


@pytest.mark.parametrize("planner", ["thread", "process"])
@pytest.mark.parametrize(("ranks", "tp"), [(2, 2), (2, 1)])
def test_every_rank_gets_its_groups_batches(ranks: int, tp: int, planner: str, pool: Pool, world: Path) -> None:
    found = pool.run(HERE + "batches", ranks, tp=tp, folder=str(world), planner=planner, steps=4)
    recipe = train_recipe(world, rows_per_rank=1)
    for rank, said in enumerate(found):
        alone = Loader(recipe, dp_rank=said["dp"], dp_size=ranks // tp)
        assert said["steps"] == [told(alone.build(step)) for step in range(4)], f"rank {rank}"
        assert said["again"] == said["steps"][-1]
        assert said["reads"] == (rank % tp == 0) and bool(said["state"]) == said["reads"]
    lines = (world / f"plan-{ranks}-{tp}-{planner}.log").read_text().splitlines()
    windows = [json.loads(line)["window"] for line in lines]
    assert windows == ([0, 1] if planner == "thread" else [0, 1, 2, 3]), "one process appends, the planner's runs ahead"


def test_an_error_of_the_reading_rank_is_everybodys(pool: Pool, world: Path) -> None:
    found = pool.run(HERE + "refused", 2, tp=2, folder=str(world))
    assert all(text.startswith("UserError: source ") and "can be drawn" in text for text in found), found
