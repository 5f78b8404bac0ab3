"""Draw order: every sample once an epoch, in another order each epoch, and any group by itself."""

import numpy as np
import pytest

from data_pipeline.stream.plan.order import SHUFFLE_CHUNKS, Order

SHARDS = {
    "one": [100],
    "prime": [7, 7, 7, 7, 7, 7, 5],
    "empty ones": [0, 33, 0, 1, 0, 64, 0],
    "single samples": [1] * 50,
    "large": [10_000] * 7,
}


def drawn(order: Order, epoch: int) -> list[tuple[int, int]]:
    out = []
    for group in range(order.groups):
        found = [(shard, i) for shard, start, stop in order.spans(epoch, group) for i in range(start, stop)]
        out += [found[k] for k in order.shuffle(epoch, group, len(found))]
    return out


@pytest.mark.parametrize("sizes", SHARDS.values(), ids=SHARDS.keys())
@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_an_epoch_has_every_sample_once(sizes: list[int], chunk: int) -> None:
    order = Order(np.concatenate([[0], np.cumsum(sizes)]), chunk, seed=3, source=1)
    wanted = [(shard, i) for shard, size in enumerate(sizes) for i in range(size)]
    first, second = drawn(order, 0), drawn(order, 1)
    assert sorted(first) == sorted(second) == wanted
    assert len(wanted) < 10 or first != second


def test_no_samples_are_no_groups() -> None:
    assert Order(np.array([0, 0, 0]), 64, 0, 0).groups == 0


def test_seed_and_source_make_another_order() -> None:
    starts = np.array([0, 5000])
    orders = [drawn(Order(starts, 16, seed, source), 0) for seed, source in ((0, 0), (1, 0), (0, 1))]
    assert orders[0] != orders[1] and orders[0] != orders[2] and orders[1] != orders[2]


def test_chunks_are_spread_evenly() -> None:
    """Place and number of a chunk are independent: |r| of 20,000 chunks has a standard deviation of 0.007."""
    order = Order(np.array([0, 20_000 * 8]), 8, seed=0, source=0)
    chunks = [start // 8 for group in range(order.groups) for _, start, _ in order.spans(0, group)]
    assert len(chunks) == len(set(chunks)) == 20_000
    assert abs(np.corrcoef(np.arange(len(chunks)), chunks)[0, 1]) < 0.03
    assert abs(np.corrcoef(chunks[1:], chunks[:-1])[0, 1]) < 0.03


def test_a_group_reads_neighbours_together() -> None:
    order = Order(np.arange(0, 101 * 1000, 1000), 64, seed=0, source=0)
    spans = order.spans(0, 5)
    assert len(spans) == SHUFFLE_CHUNKS
    assert all(0 < stop - start <= 64 and start % 64 == 0 for _, start, stop in spans)
