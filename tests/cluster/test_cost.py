"""cluster/cost by itself: what must hold of the arithmetic, without torch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cost.activations import Numbers, activations
from cluster.cost.estimate import Estimator, Setting
from cluster.cost.gathers import REUSE, gathers
from cluster.cost.goodput import Failures, best_interval, daly, expected_goodput, played_goodput, young
from cluster.cost.network import seconds_of
from cluster.cost.parts import make_model
from cluster.cost.search import nearest_change, said, search
from cluster.cost.segments import stretch_of
from cluster.cost.simulate import simulate
from cluster.cost.traffic import Message, wire_bytes
from configs.errors import UserError
from configs.listing import find_recipes, find_sites
from configs.load import load_recipe
from configs.schema import TrainRecipe
from configs.site import SiteConfig, load_site
from pretrain.row_loads import assumed_rows

LARGE = [
    "model.encoder.width=1024",
    "model.encoder.depth=24",
    "model.encoder.heads=16",
    "model.encoder.mlp_width=4096",
    "model.decoder.layers=32",
    "model.decoder.width=4096",
    "model.decoder.heads=32",
    "model.decoder.kv_heads=8",
    "model.decoder.mlp_width=14336",
    "model.decoder.tied_head=false",
    "data.packing.length=4096",
    "data.packing.rows_per_step=256",
    "parallel.rows_per_rank=1",
]


def recipe_of(*changes: str) -> TrainRecipe:
    recipe = load_recipe("tiny_train", list(changes))
    assert isinstance(recipe, TrainRecipe)
    return recipe


def estimator_of(site: str, *changes: str, recipe: TrainRecipe | None = None) -> Estimator:
    made = recipe or recipe_of(*changes)
    return Estimator(made, load_site(site).hardware, 32000, assumed_rows(made, (640, 480), 100, 50))


@pytest.mark.parametrize("name", sorted(find_sites()))
def test_every_figure_of_a_site_has_a_source(name: str) -> None:
    site = load_site(name)
    tree = site.model_dump(mode="json", exclude_unset=True)
    tree["hardware"]["sources"].pop("matmul_efficiency")
    with pytest.raises(ValueError, match="sources has no line for matmul_efficiency"):
        SiteConfig.model_validate(tree)


def test_a_site_that_is_not_there_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'h100-8x'"):
        load_site("h100_8x")
    with pytest.raises(UserError, match="does not exist"):
        load_site(str(tmp_path / "mine.yaml"))
    tree = yaml.safe_load(find_sites()["laptop"].read_text())
    tree["hardware"]["memory_gbb"] = 3
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=r"unknown key hardware.memory_gbb: did you mean 'memory_gb'"):
        load_site(str(tmp_path / "mine.yaml"))


def test_segments_share_calls_as_the_model_shares_them() -> None:
    found = stretch_of([12, 8, 5], 64, causal=True)
    assert (found.real, found.calls, found.gathered) == (25, 2, 8 * 2 + 12)
    assert found.useful == 12 * 13 / 2 + 8 * 9 / 2 + 5 * 6 / 2
    assert stretch_of([600, 500], 2048, causal=True).gathered == 1100  # long ones have a call each, without padding
    assert stretch_of([4, 4, 6], 14, causal=False).calls == 2


def test_a_small_model_is_gathered_once_a_micro_step_and_a_large_one_twice() -> None:
    small = make_model(recipe_of().model, 32000, 1, {"decoder": 1.0, "projector": 1.0, "encoder": 1.0})
    size = sum(p.weight.size for p in small.weights)
    assert gathers(small, 8).peak == size
    assert gathers(small, 8).elements == sum(-(-p.weight.size // 8) * 8 for p in small.weights)
    large = make_model(recipe_of(*LARGE).model, 32000, 1, {"decoder": 1.0, "projector": 1.0, "encoder": 1.0})
    size, found = sum(p.weight.size for p in large.weights), gathers(large, 8)
    assert 1.6 * size < found.elements <= 2 * size * 1.01  # all but what is used again within REUSE
    assert found.peak < REUSE * 1.3 < size


def test_nothing_is_kept_below_what_trains() -> None:
    recipe = recipe_of()
    rows = assumed_rows(recipe, (640, 480), 100, 50)
    whole = make_model(recipe.model, 32000, 1, {"encoder": 1.0, "projector": 1.0, "decoder": 1.0})
    frozen = make_model(recipe.model, 32000, 1, {"projector": 1.0})
    last = make_model(recipe.model, 32000, 1, {"decoder.layers[3:]": 1.0})
    numbers = Numbers()
    parts = [activations(m, rows.mean, numbers).by_part for m in (whole, frozen, last)]
    assert parts[0]["encoder"] > 0 and parts[1]["encoder"] == 0 and parts[2]["projector"] == 0
    assert parts[2]["decoder"] < parts[1]["decoder"] / 3
    assert activations(whole, rows.mean, numbers).recomputed < activations(whole, rows.mean, numbers).total


def test_rings_send_what_rings_send() -> None:
    assert wire_bytes("all_reduce", 1000, 4) == 1500 and wire_bytes("all_gather", 1000, 4) == 750
    hardware = load_site("h100-8x").hardware
    message = Message("weights", "all_gather", "dp", 1e9, 1)
    one, many = (seconds_of(message, hardware, 1, dp, 8) for dp in (8, 64))
    assert one == pytest.approx(0.875e9 / 360e9, rel=0.02)
    assert many == pytest.approx(0.875e9 / (8 * 45e9), rel=0.25) and many > one
    # TP 8 leaves each DP ring one network adapter.
    assert seconds_of(message, hardware, 8, 8, 8) == pytest.approx(0.875e9 / 45e9, rel=0.02)


def test_what_does_not_fit_gets_a_change_that_fits() -> None:
    estimator = estimator_of("a100-8x", *LARGE)
    tight = Setting(8, 1, 1, 1)
    found = estimator.run(tight)
    assert not found.fits
    change = nearest_change(estimator, tight)
    assert change is not None and change.fits
    words = said(tight, change.setting, 4096)
    assert words.startswith("--set ") and "activation" not in words
    again = estimator.run(change.setting)
    assert again.used == change.used < found.used


def test_the_search_finds_what_fits_fastest_first() -> None:
    found = search(estimator_of("a100-8x", *LARGE), 8)
    assert found and all(one.fits for one in found)
    speeds = [round(one.tokens_per_s, 1) for one in found]
    assert speeds == sorted(speeds, reverse=True)
    assert {one.setting.tp for one in found} >= {1, 2, 4}
    assert all(one.setting.ranks == 8 for one in found)


KNOWN = {
    "blip2": 3.74,
    "cogvlm": 17.64,
    "llava15": 7.05,
    "qwen2_vl": 8.29,
    "qwen25_vl": 8.29,
    "qwen_vl": 9.66,
    "idefics3": 8.46,
}
"""Billions of parameters; LLaVA's without the last layer of CLIP, which is not run."""


@pytest.mark.parametrize("name", sorted(find_recipes()))
def test_every_packaged_recipe_has_an_estimate(name: str) -> None:
    recipe = load_recipe(name)
    if not isinstance(recipe, TrainRecipe):
        return
    found = estimator_of("a100-8x", recipe=recipe).run(
        Setting(8, 1, recipe.parallel.zero, recipe.parallel.rows_per_rank)
    )
    assert found.memory["activations"] > 0 and 0 < found.mfu < 1 and found.tokens > 0
    assert all(row["forward"] > 0 for part, row in found.flops.items() if part != "encoder")
    if name in KNOWN:
        assert round(sum(p.weight.size for p in found.model.weights) / 1e9, 2) == KNOWN[name]


def test_more_ranks_take_fewer_seconds_and_never_fewer_bytes_of_weights() -> None:
    estimator = estimator_of("h100-8x", *LARGE)
    few, many = (estimator.run(Setting(n, 1, 3, 1)) for n in (16, 64))
    assert many.seconds.total < few.seconds.total < 4.5 * many.seconds.total
    assert many.states.weights * 4 == pytest.approx(few.states.weights, rel=1e-3)
    assert 0 < many.mfu < 1 and many.tokens == few.tokens


def test_imbalance_is_the_slowest_ranks_excess() -> None:
    estimator = estimator_of("a100-8x", *LARGE)
    rows = estimator.rows
    pairs, *others = rows.features[0]
    uneven = replace(rows, features=tuple((pairs * (1 + n % 2), *others) for n in range(64)))
    level = replace(rows, features=tuple(rows.features[0] for _ in range(64)))
    setting = Setting(8, 1, 3, 1)
    assert replace(estimator, rows=level).imbalance(setting) == pytest.approx(0, abs=1e-12)
    assert 0 < replace(estimator, rows=uneven).imbalance(setting) < 0.5


FAILURES = Failures(between=4 * 3600.0, restart=600.0, checkpoint=60.0)


def test_played_failures_agree_with_dalys_expectation() -> None:
    for interval in (600.0, 1800.0, 7200.0):
        played = sum(played_goodput(interval, FAILURES, 30e6, seed) for seed in range(4)) / 4
        assert played == pytest.approx(expected_goodput(interval, FAILURES), rel=0.02)


def test_the_best_interval_is_near_youngs_and_dalys() -> None:
    assert young(FAILURES) == pytest.approx(1314.5, abs=1)
    table = best_interval(FAILURES, step=10.0, horizon=20e6, seed=0)
    best = max(table, key=lambda row: row["expected"])
    assert best["seconds"] == pytest.approx(daly(FAILURES), rel=0.25)
    # The optimum is flat: what is played best gives up nothing against Daly's interval.
    assert table[0]["expected"] > best["expected"] - 0.005


def test_the_simulator_agrees_with_the_estimate_where_nothing_shakes() -> None:
    estimator = estimator_of("h100-8x", *LARGE)
    calm = replace(estimator, hardware=estimator.hardware.model_copy(update={"jitter": 0.0}))
    found = simulate(calm, Setting(8, 1, 3, 1), 5e4, steps=5, seed=0)
    assert found["step_seconds"]["mean"] == pytest.approx(found["step_seconds"]["estimate"], rel=0.01)
    shaken = simulate(estimator, Setting(64, 1, 3, 1), 5e4, steps=20, seed=0)
    assert shaken["step_seconds"]["p95"] > shaken["step_seconds"]["p5"] > shaken["step_seconds"]["estimate"]
    assert shaken["best"]["played"] < 1 and shaken["gpu_hours"] > 0


@pytest.mark.parametrize("kind", ["idle", "fed"])
def test_ranks_without_rows_are_said(kind: str) -> None:
    estimator = estimator_of("h100-8x", *LARGE, f"data.packing.rows_per_step={16 if kind == 'idle' else 64}")
    found: dict[str, Any] = simulate(estimator, Setting(64, 1, 3, 1), 5e4, steps=2, seed=0)
    assert found["idle_ranks"] == (48 if kind == "idle" else 0)
