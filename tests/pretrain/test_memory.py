"""Out of memory: the message names items, the row and three settings that free something."""

import re

import pytest
import torch

from configs.load import load_recipe
from data_pipeline.stream.batch import RowInfo
from pretrain.memory import Sizes, is_out_of_memory, memory_table, out_of_memory, remedies
from pretrain.mesh import Mesh
from tests.support.worlds import batch_of, rows_of

SIZES = Sizes(parameters=25_000_000, trained=20_000_000, rows=4, length=512, labels=800, visual=900, vocabulary=2048)


def test_zero_3_cuts_what_it_cuts() -> None:
    recipe = load_recipe("demo_caption", ["parallel.zero=1"])
    one = memory_table(recipe, SIZES, dp=2, tp=1)
    three = memory_table(load_recipe("demo_caption", ["parallel.zero=3"]), SIZES, dp=2, tp=1)
    assert three["parameters"] == one["parameters"] / 2
    assert three["master weights and moments"] == one["master weights and moments"]
    assert one["parameters"] == 2 * SIZES.parameters


def test_remedies_free_memory() -> None:
    found = remedies(load_recipe("demo_caption", ["parallel.zero=1"]), SIZES, dp=2, tp=1)
    assert len(found) == 3 and all(freed > 0 for _, freed in found)
    assert found == sorted(found, key=lambda item: -item[1])


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
    table = [{"parameters": 1000, "trainable": True}, {"parameters": 500, "trainable": False}]
    text = out_of_memory(load_recipe("demo_caption"), mesh, batch, table, 2048)
    heaviest = max(batch.rows, key=lambda row: row.patches + row.tokens)
    assert f"rank 1 in a micro-step of 2 rows; its heaviest is row {heaviest.row} ({heaviest.tokens} tokens" in text
    assert len(re.findall(r"--set \S+.* frees [\d,.]+ MiB", text)) == 3
    assert "activations of the decoder" in text
