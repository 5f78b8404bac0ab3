"""The production planner on bare lengths: nothing dropped or repeated, the same plan whoever asks."""

import json
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UserError
from data_pipeline.stream.plan.bare import LengthSet, pack_epoch, plan_columns
from data_pipeline.stream.plan.score import Loads, balance
from data_pipeline.stream.plan.window import PlanSettings
from pretrain.cli.main import main

COUNT = 6000


@pytest.fixture
def lengths(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    tokens = np.clip(np.exp(random.normal(6.2, 0.8, COUNT)), 20, 3000).astype(np.int32)
    vision = (tokens // 300 * (random.random(COUNT) < 0.8)).astype(np.int32)
    np.savez(tmp_path / "set.npz", tokens=tokens, vision=vision, vision_unit=np.int32(1))
    return tmp_path / "set.npz"


@pytest.mark.parametrize("window", [64, 512, 4096])
def test_an_epoch_has_every_sample_that_fits_once(window: int, lengths: Path) -> None:
    known = LengthSet.load(lengths)
    columns = plan_columns(pack_epoch(known, PlanSettings(2048, 64, window // 64, 64), seed=1))
    assert sorted(columns["sample"].tolist()) == np.flatnonzero(known.tokens <= 2048).tolist()
    filled = np.bincount(columns["pack"], known.tokens[columns["sample"]])
    assert filled.max() <= 2048 and filled.min() > 0
    assert (np.diff(columns["pack"]) >= 0).all() and len(filled) == columns["pack"].max() + 1
    # A sample is longer by 700 tokens on average; measured fill 0.996 and more, with a short last window.
    assert filled.mean() / 2048 > 0.99


def test_the_plan_is_the_same_for_any_dp(lengths: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans, said = [], []
    for ranks in (1, 8, 13):
        out = tmp_path / f"{ranks}.npz"
        arguments = ["data", "pack", "--lengths", str(lengths), "--length", "2048", "--dp", str(ranks)]
        assert main([*arguments, "--window", "512", "--rows-per-step", "64", "--out", str(out), "--json"]) == 0
        plans.append(out.read_bytes())
        said.append(json.loads(capsys.readouterr().out))
    assert plans[0] == plans[1] == plans[2]
    assert (
        said[0]["fill"] == said[1]["fill"]
        and said[0]["balance"]["vision_waste"] == 0 < said[1]["balance"]["vision_waste"]
    )


def test_the_score_is_that_of_hand_made_rows() -> None:
    """Two ranks, two micro-steps: vision 1+3 and 2+2 tiles, so 8 of 2 * (3 + 2) = 10 are useful."""
    loads = Loads(*(np.array(values) for values in ([10, 10, 10, 10], [1024, 3072, 2048, 2048], [100, 100, 100, 100])))
    found = balance(loads, 10, 2)
    assert found["vision_waste"] == pytest.approx(0.2)
    tile, linear, pair = 7.3e11, 1.34e10, 2 * 4096 * 32
    useful = 8 * tile + 40 * linear + 400 * pair
    assert found["lockstep 0.3B+7B"] == pytest.approx(useful / (10 * tile + 40 * linear + 400 * pair))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lengths", "nowhere.npz", "--length", "2048"], "nowhere.npz is no length set"),
        (["--lengths", "SET"], "--length"),
        (["--lengths", "SET", "--length", "2048", "--window", "100"], "not a multiple of --rows-per-step 512"),
        ([], "give a RECIPE, or --lengths"),
    ],
)
def test_wrong_use_is_a_sentence(
    arguments: list[str], message: str, lengths: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "pack", *(str(lengths) if a == "SET" else a for a in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_a_set_of_nonsense_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", tokens=np.array([0, 5]), vision=np.array([0, 1]), vision_unit=1)
    with pytest.raises(UserError, match="less than one token"):
        LengthSet.load(tmp_path / "bad.npz")
