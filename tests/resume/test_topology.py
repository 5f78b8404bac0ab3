"""Any topology goes on from any other's checkpoint in the middle of a run: the same samples, the same curve to rounding.

The full form is LOOKSAY_PAIRS=30; in short some ordered pairs, rotated by LOOKSAY_SEED or the day.
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.pool import Pool

CASES = "tests.pretrain.training_cases:"
TOPOLOGIES = {"1x1": (1, 1), "2x1": (2, 1), "3x1": (3, 1), "1x2": (1, 2), "2x2": (2, 2), "4x1": (4, 1)}
"""DP x TP -> (DP, TP). 3 and 4 divide few of the model's sizes."""
PAIRS = [(a, b) for a in TOPOLOGIES for b in TOPOLOGIES if a != b]
FIRST, LAST = 3, 6


def chosen() -> list[tuple[str, str]]:
    count = int(os.environ.get("LOOKSAY_PAIRS", "4"))
    seed = int(os.environ.get("LOOKSAY_SEED", str(int(time.time() // 86400))))
    return [PAIRS[n] for n in sorted(np.random.default_rng(seed).permutation(len(PAIRS))[:count])]


def zero_of(name: str, second: bool) -> int:
    """ZeRO changes on the way: 1 on one side and 3 on the other."""
    return 1 if (list(TOPOLOGIES).index(name) % 2 == 0) != second else 3


def parts(name: str, zero: int) -> dict[str, Any]:
    parallel = {"zero": zero, "precision": "fp32", "tp": TOPOLOGIES[name][1], "rows_per_rank": 1}
    # A large eps: Adam's first steps would turn rounding noise in gradients near zero into full updates.
    return {"parallel": parallel, "checkpoint": {"every": FIRST}, "optim": {"eps": 1e-3}}


@pytest.fixture(scope="module")
def legs(pool: Pool, squares: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """First legs as they are asked for: (topology, ZeRO) -> a run with a checkpoint of step 3."""

    class Legs(dict[tuple[str, int], Path]):
        def __missing__(self, key: tuple[str, int]) -> Path:
            name, zero = key
            dp, tp = TOPOLOGIES[name]
            run = self[key] = tmp_path_factory.mktemp("leg")
            pool.run(
                CASES + "trained", dp * tp, tp, world=str(squares), run=str(run), parts=parts(name, zero), until=FIRST
            )
            return run

    return Legs()


@pytest.fixture(scope="module")
def whole(pool: Pool, squares: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The lines of a run that one process made."""
    run = tmp_path_factory.mktemp("whole")
    pool.run(CASES + "trained", 1, world=str(squares), run=str(run), parts=parts("1x1", 1))
    return lines_of(run)


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("before", "after"), chosen())
def test_the_curve_goes_on(
    before: str, after: str, pool: Pool, squares: Path, legs: Any, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    """fp32, measured: losses differ by 3e-7 at most (order of summation); without moments by 2e-2."""
    zero = zero_of(before, False)
    run = Path(shutil.copytree(legs[before, zero], tmp_path / "run"))
    dp, tp = TOPOLOGIES[after]
    second = parts(after, zero_of(before, True))
    for result in pool.run(CASES + "trained", dp * tp, tp, world=str(squares), run=str(run), parts=second):
        assert (result["did"], result["refused"]) == (LAST - FIRST, None)
    found = lines_of(run)
    for name in ("step", "ids_hash", "label_tokens", "lr"):
        assert [line[name] for line in found] == [line[name] for line in whole], name
    np.testing.assert_allclose([line["loss"] for line in found], [line["loss"] for line in whole], rtol=2e-6)
    np.testing.assert_allclose([line["grad_norm"] for line in found], [line["grad_norm"] for line in whole], rtol=2e-5)
