"""The plan: every sample exactly once an epoch, the same rows whoever asks, a small state that any step follows from."""

import json
from collections import Counter

import numpy as np
import pytest

from configs.errors import UserError
from data_pipeline.stream.plan.mixture import draw_sources
from data_pipeline.stream.plan.packing import pack
from data_pipeline.stream.plan.planner import Draw, PlannedStep, Planner, PlanSettings, SampleTable

SETTINGS = PlanSettings(length=256, rows_per_step=8, window_steps=4, chunk=16)


def table(name: str, count: int, seed: int = 0, longest: int = 256) -> SampleTable:
    """Realistic lengths: text of log-normal length, one to four pictures of 4 to 25 tokens."""
    random = np.random.default_rng(seed)
    text = np.clip(np.exp(random.normal(3.0, 0.6, count)).astype(int), 3, 150)
    images = random.choice([1, 1, 2, 1, 3, 1, 4], count)
    visual = np.array([random.choice([9, 12, 16, 20, 25], n).sum() for n in images])
    tokens = np.minimum(text + visual, longest).astype(np.int32)
    return SampleTable(
        name, name, tokens, text.astype(np.int32) // 2, visual.astype(np.int32) * 4, images.astype(np.int32)
    )


def planner(settings: PlanSettings = SETTINGS, seed: int = 0, weights: tuple[float, ...] = (1.0, 2.0)) -> Planner:
    return Planner([table("a", 311), table("b", 173, 1)][: len(weights)], weights, settings, seed)


def draws(steps: list[PlannedStep]) -> list[Draw]:
    return [draw for step in steps for row in step.rows for draw in row.samples]


@pytest.mark.parametrize("max_images", [None, 6])
def test_every_sample_once_an_epoch_over_many_windows(max_images: int | None) -> None:
    """Emitted and carried together are each source's epochs from the start, without a gap or a repeat."""
    made = planner(PlanSettings(256, 8, 4, 16, max_images_per_row=max_images))
    windows = 12
    seen = Counter(draws([made.step(step) for step in range(windows * 4)]))
    state = made.state(windows * 4)
    carried = Counter((s, e, i) for s, e, i, _ in state["carry"])
    assert max((seen + carried).values()) == 1, "a sample came twice in an epoch"
    for source, drawn in enumerate(state["drawn"]):
        epochs, rest = divmod(drawn, len(made.usable[source]))
        assert epochs >= 1, "the test does not reach a second epoch"
        found = [(e, i) for s, e, i in (seen + carried) if s == source]
        assert len(found) == drawn, "a drawn sample was dropped"
        for epoch in range(epochs):
            assert sorted(i for e, i in found if e == epoch) == made.usable[source].tolist()
        assert sum(e == epochs for e, _ in found) == rest


def test_nothing_starves() -> None:
    """What does not fit is carried; nothing is carried more than max_carry_windows + 1 times."""
    ages = []
    for seed in range(3):
        made = planner(PlanSettings(256, 4, 2, 16, max_images_per_row=5, max_carry_windows=2), seed)
        for window in range(1, 40):
            carry = made.state(window * 2)["carry"]
            ages += [age for *_, age in carry]
            # Measured at most 53 carried; without the rule 86.
            assert len(carry) <= 60
    # Measured 3: two windows, then placed first. Without the rule one waited 39 of 40 windows.
    assert max(ages) <= 3


def test_any_step_follows_from_its_windows_state() -> None:
    """restore(state(n)) in a new planner, through JSON, gives the steps of the undisturbed one, as do seeks."""
    straight = planner()
    wanted = [straight.step(step) for step in range(30)]
    for start in (0, 1, 7, 8, 17, 29):
        state = json.loads(json.dumps(straight.state(start)))
        fresh = planner()
        fresh.restore(state)
        assert [fresh.step(step) for step in range(start, 30)] == wanted[start:]
    assert planner().step(23) == wanted[23], "a direct seek is another step"
    assert straight.step(2) == wanted[2] and straight.step(27) == wanted[27], "a seek back is another step"


def test_the_state_is_small() -> None:
    """The demo's planned data: some thousand samples in rows of 512, windows of 16 steps of 64 rows."""
    tables = [table("vqa", 9000, 2), table("emoji", 1100, 3)]
    made = Planner(tables, [4.0, 1.0], PlanSettings(512, 64, 16, 64), 0)
    sizes = [len(json.dumps(made.state(step))) for step in (0, 16, 33)]
    assert max(sizes) <= 8192, sizes  # measured 94, 2246, 2521


def test_seed_lengths_and_weights_change_the_plan_and_its_fingerprint() -> None:
    base = planner()
    for other in (planner(seed=1), planner(weights=(1.0, 3.0)), planner(PlanSettings(256, 8, 5, 16))):
        assert other.fingerprint != base.fingerprint
        assert other.step(0) != base.step(0)
        with pytest.raises(UserError, match="changed since the checkpoint"):
            other.restore(base.state(4))
    assert planner().fingerprint == base.fingerprint


def test_rows_hold_what_they_say() -> None:
    made = planner()
    for step in (made.step(n) for n in range(8)):
        assert len(step.rows) == 8
        assert step.denominator == sum(made.tables[s].labels[i] for s, _, i in draws([step]))
        for row in step.rows:
            tokens = [int(made.tables[s].tokens[i]) for s, _, i in row.samples]
            assert row.tokens == sum(tokens) <= 256
            assert row.patches == sum(made.tables[s].patches[i] for s, _, i in row.samples)
            assert row.attention == sum(t * t for t in tokens)


def test_rows_are_full_and_differ() -> None:
    settings = PlanSettings(512, 32, 8, 64)
    made = Planner([table("a", 5000)], [1.0], settings, 0)
    rows = [row for step in range(16) for row in made.step(step).rows]
    fill = sum(row.tokens for row in rows) / (len(rows) * 512)
    assert fill >= 0.98, fill  # measured 0.9976
    assert len({row.patches for row in rows}) >= 5
    loads = [sum(row.attention for row in made.step(step).rows) for step in range(16)]
    assert np.std(loads) / np.mean(loads) < 0.2, "steps are a curriculum"  # measured 0.096


def test_a_sample_longer_than_a_row_is_counted_and_never_drawn() -> None:
    tables = [table("a", 50)]
    tables[0].tokens[[3, 7]] = 300
    tables[0].tokens[9] = 0  # could not be read
    made = Planner(tables, [1.0], SETTINGS, 0)
    assert made.too_long == [2]
    assert not {3, 7, 9} & {i for _, _, i in draws([made.step(step) for step in range(8)])}
    tables[0].tokens[:] = 999
    with pytest.raises(UserError, match="source a: none of its 50 samples fits a row of 256"):
        Planner(tables, [1.0], SETTINGS, 0)


@pytest.mark.parametrize("seed", range(20))
def test_mixture_stays_within_one_sample_of_its_weights(seed: int) -> None:
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.full(random.integers(2, 7), 0.5)) + 1e-3
    share = weights / weights.sum()
    drawn = np.zeros(len(share), int)
    worst = 0.0
    while drawn.sum() < 3000:  # in pieces, as windows ask
        for source in draw_sources(weights.tolist(), drawn.tolist(), int(random.integers(1, 400))):
            drawn[source] += 1
            worst = max(worst, float(np.abs(drawn - share * drawn.sum()).max()))
    assert worst < 1.0, worst  # the bound is 1 - 1 / (2 k - 2); greedy reached 1.09


def test_pieces_of_a_mixture_are_the_whole() -> None:
    weights = [5.0, 3.0, 1.0]
    whole = draw_sources(weights, [0, 0, 0], 500)
    first = draw_sources(weights, [0, 0, 0], 137)
    rest = draw_sources(weights, np.bincount(first, minlength=3).tolist(), 363)
    assert np.array_equal(whole, np.concatenate([first, rest]))


@pytest.mark.parametrize("seed", range(10))
def test_packing_places_each_sample_once_and_never_overfills(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 400))
    lengths, images = random.integers(1, 129, count), random.integers(0, 5, count)
    first = random.random(count) < 0.05
    limit = None if seed % 2 else 6
    rows, left = pack(lengths, images, first, 24, 128, limit)
    assert len(rows) == 24
    assert sorted([i for row in rows for i in row] + left) == list(range(count))
    for row in rows:
        assert lengths[row].sum() <= 128
        assert limit is None or images[row].sum() <= limit or len(row) == 1
    for index in left:  # nothing that fits is left over
        fits = [r for r in rows if lengths[r].sum() + lengths[index] <= 128]
        assert all(limit is not None and images[r].sum() + images[index] > limit for r in fits)
    assert not set(left) & set(np.flatnonzero(first)) or lengths[first].sum() > 12 * 128
