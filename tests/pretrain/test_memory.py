"""Out of memory: the message names items, the row and three settings that free something."""

import re

import pytest
import torch

from cluster.cost.load import Load
from cluster.cost.parts import make_model
from configs.load import load_recipe
from configs.schema import TrainRecipe
from data_pipeline.stream.batch import RowInfo
from pretrain.memory import is_out_of_memory, memory_table, out_of_memory, remedies
from pretrain.mesh import Mesh
from pretrain.row_loads import assumed_rows
from tests.support.worlds import batch_of, rows_of

WORDS = 2048


def demo(*changes: str) -> tuple[TrainRecipe, Load]:
    """The demo's recipe and a micro-step of four assumed rows."""
    recipe = load_recipe("demo_caption", list(changes))
    assert isinstance(recipe, TrainRecipe)
    return recipe, assumed_rows(recipe, (224, 224), 40, 20).mean.scaled(4)


def test_zero_3_cuts_what_it_cuts() -> None:
    recipe, load = demo("parallel.zero=1")
    one = memory_table(recipe, load, WORDS, dp=2, tp=1)
    three = memory_table(demo("parallel.zero=3")[0], load, WORDS, dp=2, tp=1)
    assert three["weights"] == pytest.approx(one["weights"] / 2, rel=1e-3)
    assert three["master weights and moments"] == pytest.approx(one["master weights and moments"], rel=1e-3)
    model = make_model(recipe.model, WORDS, 1, recipe.stage.train, recipe.data.cache_features)
    assert one["weights"] == pytest.approx(2 * sum(p.weight.size for p in model.weights), rel=1e-3)
    assert three["activations of the decoder"] == one["activations of the decoder"]
    assert "gathered weights" in three and "gathered weights" not in one


def test_remedies_free_memory() -> None:
    recipe, load = demo("parallel.zero=1")
    found = remedies(recipe, load, WORDS, dp=2, tp=1)
    assert len(found) == 3 and all(freed > 0 for _, freed in found)
    assert found == sorted(found, key=lambda item: -item[1])
    half = sum(memory_table(recipe, load, WORDS, 2, 1).values()) - sum(
        memory_table(recipe, load.scaled(0.5), WORDS, 2, 1).values()
    )
    assert dict(remedies(recipe, load.scaled(20), WORDS, 2, 1))["parallel.rows_per_rank=40"] > half > 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("The size of tensor a (0) must match"), False),
    ],
)
def test_only_memory_is_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_the_message_names_row_items_and_settings() -> None:
    mesh = Mesh(1, 2, 0, 1, 1, 2, torch.device("meta"), None, None, None)
    batch = batch_of(rows_of("uneven")[:2], numbers=[6, 7])
    assert isinstance(batch.rows[0], RowInfo)
    text = out_of_memory(demo()[0], mesh, batch, WORDS)
    heaviest = max(batch.rows, key=lambda row: row.patches + row.tokens)
    assert f"rank 1 in a micro-step of 2 rows; its heaviest is row {heaviest.row} ({heaviest.tokens} tokens" in text
    assert len(re.findall(r"--set \S+.* frees [\d,.]+ MiB", text)) == 3
    assert "activations of the decoder" in text
