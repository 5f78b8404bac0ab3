"""Steps that are not finite, losses that leap: skipped, undone, or the end of the run; all ranks judge alike."""

import pytest

from configs.errors import NO_REQUEUE
from configs.training import OptimConfig
from pretrain.guard import FEWEST, WINDOW, Flood, Guard


def guard(**options: object) -> Guard:
    return Guard(OptimConfig(**options))  # type: ignore[arg-type]


def test_a_step_that_is_not_finite_is_counted_and_passed() -> None:
    made = guard()
    assert [made.judge(step, 1.0, step != 3) for step in range(1, 6)] == [False] * 5
    assert made.nonfinite == 1 and not made.left_out


def test_a_flood_ends_the_run() -> None:
    made = guard(max_nonfinite=3)
    for step in range(1, 2 * WINDOW, WINDOW // 2 + 1):  # never three in a window
        assert not made.judge(step, float("nan"), False)
        for finite in range(step + 1, step + WINDOW // 2 + 1):
            made.judge(finite, 1.0, True)
    with pytest.raises(
        Flood, match=r"3 of the last \d+ steps had gradients that are not finite, the last was step 501"
    ) as caught:
        for step in (500, 501, 502):
            made.judge(step, float("inf"), False)
    assert caught.value.exit_code == NO_REQUEUE


def test_rollback_tries_a_step_once_more_and_then_skips_it() -> None:
    made = guard(nonfinite="rollback")
    assert made.judge(7, float("nan"), False), "back to the checkpoint"
    kept = made.state()
    assert not made.judge(7, float("nan"), False), "the second time it is skipped"
    fresh = guard(nonfinite="rollback")
    fresh.load(kept)
    assert not fresh.judge(7, float("nan"), False), "a resumed run knows it too"


def test_a_leap_of_the_loss_is_undone_and_its_step_left_out() -> None:
    made = guard(spike_ratio=3.0)
    for step in range(1, FEWEST + 1):
        assert not made.judge(step, 1.0, True)
    assert not made.judge(FEWEST + 1, 2.9, True)
    before = made.state()
    assert made.judge(FEWEST + 2, 9.0, True) and made.left_out == {FEWEST + 2}
    made.load(before, keep_decisions=True)
    assert made.left_out == {FEWEST + 2} and made.rollbacks == 1
    untouched = guard()
    assert not any(untouched.judge(step, 10.0**step, True) for step in range(1, 60)), "it is off unless asked for"


def test_no_run_goes_back_for_ever() -> None:
    made = guard(nonfinite="rollback", max_nonfinite=3)
    with pytest.raises(Flood, match="times back to a checkpoint"):
        for step in range(1, 300, 60):
            made.judge(step, float("nan"), False)
            for finite in range(step + 1, step + 60):
                made.judge(finite, 1.0, True)
