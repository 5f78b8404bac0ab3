"""What trains in a stage: patterns, the freeze table, AdamW's groups and rates, on a model summed by hand.

Rates and decay are read off the weights after one step: AdamW's first update is the learning rate times the gradient's
sign, and a step without a label leaves weight decay alone.
"""

from typing import Any

import pytest
import torch
from torch import nn

from configs.training import OptimConfig
from pretrain.model.linear import LogicalTensor, logical_of, mark
from pretrain.optim import make_optimizer, rate_scale, set_rates
from pretrain.stages import apply_stage
from tests.support.pool import Pool

CASES = "tests.pretrain.training_cases:"
PROJECTOR = (2 * 128) + (128 * 48 + 48) + (48 * 32 + 32)
BLOCK = 4 * 32 + 4 * 32 * 32 + 2 * 32 * 64
ENCODER = (48 * 32 + 32) + 2 * BLOCK + 2 * 32
LAYER = 2 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 2 * 8 + 3 * 32 * 64
EMBEDDING = 128 * 32
"""A vocabulary of 100, padded to 128."""
DECODER = EMBEDDING + 2 * LAYER + 32

VARIANTS = {
    "A": {"projector": 1e-3},
    "B": {"projector": 1e-3, "decoder": 1e-2},
    "C": {"encoder": 1e-4, "projector": 1e-3, "decoder": 1e-2},
}
STAGES = {
    **VARIANTS,
    "longest": {"decoder": 1e-3, "decoder.layers[1:]": 1e-4, "decoder.embedding": 0.0},
    "one layer": {"decoder.layers[0]": 1e-3},
    "first layers": {"decoder.layers[:1]": 1e-3, "encoder.blocks[0:2]": 1e-4},
}


@pytest.fixture(scope="module")
def applied(pool: Pool) -> dict[str, dict]:
    return pool.run(CASES + "tables", 1, stages=STAGES)[0]


def row(module: str, rate: float, parameters: int) -> dict[str, object]:
    return {"module": module, "trainable": rate > 0, "lr": rate, "parameters": parameters}


@pytest.mark.parametrize(
    ("stage", "table"),
    [
        ("A", [row("projector", 1e-3, PROJECTOR), row("encoder", 0, ENCODER), row("decoder", 0, DECODER)]),
        ("B", [row("projector", 1e-3, PROJECTOR), row("decoder", 1e-2, DECODER), row("encoder", 0, ENCODER)]),
        (
            "C",
            [row("encoder", 1e-4, ENCODER), row("projector", 1e-3, PROJECTOR), row("decoder", 1e-2, DECODER)],
        ),
        (
            "longest",
            [
                row("decoder", 1e-3, LAYER + 32),
                row("decoder.layers[1:]", 1e-4, LAYER),
                row("decoder.embedding", 0, EMBEDDING),
                row("encoder", 0, ENCODER),
                row("projector", 0, PROJECTOR),
            ],
        ),
        (
            "one layer",
            [
                row("decoder.layers[0]", 1e-3, LAYER),
                row("encoder", 0, ENCODER),
                row("projector", 0, PROJECTOR),
                row("decoder", 0, DECODER - LAYER),
            ],
        ),
        (
            "first layers",
            [
                row("decoder.layers[:1]", 1e-3, LAYER),
                row("encoder.blocks[0:2]", 1e-4, 2 * BLOCK),
                row("encoder", 0, ENCODER - 2 * BLOCK),
                row("projector", 0, PROJECTOR),
                row("decoder", 0, DECODER - LAYER),
            ],
        ),
    ],
)
def test_the_freeze_table(applied: dict[str, dict], stage: str, table: list[dict]) -> None:
    assert applied[stage]["table"] == [*table, row("cnn", 0, 11)]
    trained = set(applied[stage]["trained"])
    grouped = [name for _, _, _, names in applied[stage]["groups"] for name in names]
    assert set(grouped) == trained and len(grouped) == len(trained)


def test_tensor_parallel_counts_whole_parameters(pool: Pool, applied: dict[str, dict]) -> None:
    for found in pool.run(CASES + "tables", 2, 2, stages=STAGES):
        assert found == applied


def test_decay_is_for_matrices(applied: dict[str, dict]) -> None:
    decayed = {name: decay for _, _, decay, names in applied["C"]["groups"] for name in names}
    assert {decayed[name] for name in decayed if name.split(".")[-2] in {"q", "k", "v", "out", "up", "down"}} == {0.1}
    for name in ("decoder.layers.0.gate.weight", "projector.layers.1.weight", "encoder.embed.weight"):
        assert decayed[name] == 0.1, name
    spared = [name for name, decay in decayed.items() if not decay]
    assert all("norm" in name or name.endswith("bias") or "embedding" in name for name in spared)
    assert {"decoder.embedding.weight", "decoder.layers.1.q_norm.weight", "projector.layers.0.bias"} <= set(spared)


@pytest.mark.parametrize(("ranks", "zero"), [(1, 0), (2, 3)])
def test_a_step_without_labels_only_decays(pool: Pool, ranks: int, zero: int) -> None:
    """N = 0: no loss, no NaN. Matrices shrink by rate * decay (measured to 2e-4 of it: fp32 of the weights; rates
    differ tenfold), nothing else moves."""
    options: dict[str, Any] = {"train": VARIANTS["B"], "weight_decay": 0.5, "denominator": 0.0}
    for found in pool.run(CASES + "moved", ranks, zero=zero, **options):
        for name, (change, relative) in found.items():
            rate = VARIANTS["B"].get(name.split(".")[0], 0.0)
            matrix = name.endswith(".weight") and "norm" not in name and "embedding" not in name
            if rate and matrix:
                assert relative == pytest.approx(0.5 * rate, rel=1e-3), name
            else:
                assert change == 0.0, name


@pytest.mark.parametrize(
    ("variant", "ranks", "zero", "scale"), [("A", 1, 0, 1.0), ("B", 1, 0, 1.0), ("C", 1, 0, 1.0), ("C", 2, 3, 0.5)]
)
def test_each_part_moves_at_its_rate(pool: Pool, variant: str, ranks: int, zero: int, scale: float) -> None:
    """The largest update of a part is its rate times the schedule's scale: measured to 5e-5 of it (fp32 of weights
    near 1); rates differ tenfold, scales twofold."""
    largest: dict[str, float] = {}
    for found in pool.run(CASES + "moved", ranks, zero=zero, train=VARIANTS[variant], scale=scale):
        for name, (change, _) in found.items():
            part = name.split(".")[0]
            largest[part] = max(largest.get(part, 0.0), change)
    assert largest.keys() == {"encoder", "projector", "decoder"}
    for part, change in largest.items():
        assert change == pytest.approx(scale * VARIANTS[variant].get(part, 0.0), rel=1e-3), part


def test_mistakes_say_what_is_there(pool: Pool) -> None:
    mistakes = {
        "projektor": "stage.train pattern 'projektor' matches no parameter: did you mean `projector`?",
        "decoder.layer": "stage.train pattern 'decoder.layer' matches no parameter: did you mean `decoder.layers`?",
        "decoder.layers[7:]": "stage.train pattern 'decoder.layers[7:]' matches no parameter",
        "deco": "stage.train pattern 'deco' matches no parameter",
        "zzz": "'zzz' matches no parameter: known parts: decoder, encoder, projector",
        "cnn": "stage.train names 'cnn', but this encoder, a CNN, is always frozen: remove it",
        "decoder.layers[1].norm1": "'decoder.layers[1].norm1' is not a module path such as `projector`",
    }
    stages = [{pattern: 1e-3, "decoder": 1e-3} for pattern in mistakes]
    for sentence, expected in zip(pool.run(CASES + "mistaken", 1, stages=stages)[0], mistakes.values(), strict=True):
        assert expected in sentence and "\n" not in sentence
    [sentence] = pool.run(CASES + "mistaken", 1, stages=[{"decoder": 0.0}])[0]
    assert sentence == "stage.train trains nothing: give at least one part a learning rate above 0"


def numbered(layers: int) -> nn.Module:
    """Parameters with the names of a deep decoder's, and nothing else."""
    net = nn.Module()
    for number in range(layers):
        parameter = nn.Parameter(torch.zeros(2, 2))
        mark(parameter, LogicalTensor(f"decoder.layers.{number}.q.weight", (2, 2)))
        net.register_parameter(f"layer{number}", parameter)
    return net


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("decoder.layers[1]", [1]),
        ("decoder.layers[10:]", [10, 11]),
        ("decoder.layers[:2]", [0, 1]),
        ("decoder.layers[9:11]", [9, 10]),
        ("decoder.layers[:]", list(range(12))),
        ("decoder.layers.1", [1]),
    ],
)
def test_ranges_are_of_numbers_not_of_digits(pattern: str, expected: list[int]) -> None:
    net = numbered(12)
    apply_stage(net, {pattern: 1e-3})
    trained = [int(logical_of(p).name.split(".")[2]) for p in net.parameters() if p.requires_grad]
    assert trained == expected


def test_a_pattern_may_be_refined_altogether() -> None:
    rows = apply_stage(numbered(2), {"decoder": 1e-3, "decoder.layers[0]": 1e-4, "decoder.layers[1]": 1e-5})
    assert [row.parameters for row in rows] == [0, 4, 4]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 55: 0.55, 99: 0.100274, 100: 0.1}),
        ("linear", {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 55: 0.55, 99: 0.11, 100: 0.1}),
        ("constant", {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 55: 1.0, 99: 1.0}),
    ],
)
def test_the_schedule(schedule: str, expected: dict[int, float]) -> None:
    """Ten steps of warm-up, a hundred in all, down to a tenth; last step: 0.1 + 0.9 * (1 + cos(pi * 89 / 90)) / 2."""
    optim = OptimConfig(warmup_steps=10, schedule=schedule, final_ratio=0.1)
    assert {step: rate_scale(step, 100, optim) for step in expected} == pytest.approx(expected, rel=1e-5)
    rates = [rate_scale(step, 100, optim) for step in range(100)]
    assert rates[9:] == sorted(rates[9:], reverse=True) and min(rates[9:]) >= 0.1


def test_a_schedule_without_warm_up_or_without_decay() -> None:
    assert rate_scale(0, 100, OptimConfig()) == 1.0
    assert [rate_scale(step, 4, OptimConfig(warmup_steps=4)) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_rates_are_set_from_the_peak() -> None:
    net = numbered(2)
    optimizer = make_optimizer(apply_stage(net, {"decoder": 2e-3, "decoder.layers[1]": 4e-4}), OptimConfig())
    set_rates(optimizer, 0.1)
    assert set_rates(optimizer, 0.5) == {"decoder": 1e-3, "decoder.layers[1]": 2e-4}
    assert [(group["name"], group["lr"]) for group in optimizer.param_groups] == [
        ("decoder", 1e-3),
        ("decoder.layers[1]", 2e-4),
    ]
