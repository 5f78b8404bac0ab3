"""Which rank is slow: named where it is half as slow again as the median, the end of the job where the recipe says so."""

from types import SimpleNamespace
from typing import Any

import pytest

from configs.errors import REQUEUE
from pretrain.stragglers import STEPS, Stragglers, Straggling


def stragglers(limit: float = 0.0, world: int = 4, rank: int = 2) -> tuple[Stragglers, list[str]]:
    said: list[str] = []
    mesh: Any = SimpleNamespace(world=world, rank=rank)
    return Stragglers(mesh, limit, said.append), said


def run(made: Stragglers, seconds: tuple[float, ...], steps: int = STEPS) -> None:
    for step in range(1, steps + 1):
        made.judge(step, seconds)


def test_each_rank_says_its_own_seconds() -> None:
    made, _ = stragglers()
    assert made.mine(0.5) == (0.0, 0.0, 0.5, 0.0)


def test_a_slow_rank_is_named_once_in_so_many_steps() -> None:
    made, said = stragglers()
    run(made, (0.1, 0.1, 0.1, 0.25), STEPS - 1)
    assert said == []
    made.judge(STEPS, (0.1, 0.1, 0.1, 0.25))
    assert said == [f"rank 3 was 2.5 times slower than the median in steps 1 to {STEPS}"]


def test_one_that_is_too_slow_ends_the_job() -> None:
    made, _ = stragglers(limit=2.0)
    with pytest.raises(
        Straggling, match=r"rank 1 was 3\.0 times slower .* parallel\.straggler_ratio 2 does not allow"
    ) as caught:
        run(made, (0.1, 0.3, 0.1, 0.1))
    assert caught.value.exit_code == REQUEUE


@pytest.mark.parametrize(
    "seconds", [(0.1, 0.12, 0.1, 0.1), (0.001, 0.004, 0.001, 0.001)], ids=["nearly alike", "too short to matter"]
)
def test_small_differences_are_nobodys_fault(seconds: tuple[float, ...]) -> None:
    made, said = stragglers(limit=1.1)
    run(made, seconds, 3 * STEPS)
    assert said == []
