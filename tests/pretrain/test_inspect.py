"""`inspect`: what is shown is what the model gets; the course's 196 + 4 = 200 positions."""

import doctest
from pathlib import Path

import pytest

import pretrain.shapes
from configs.load import load_recipe
from pretrain.inspect import LARGE
from pretrain.shapes import parameters_of
from tests.support.pool import Pool


def test_the_course_s_200_positions() -> None:
    found = doctest.testmod(pretrain.shapes)
    assert found.failed == 0 and found.attempted > 2


@pytest.mark.parametrize(("kind", "source"), [("vit", "asked"), ("cnn", "captioned"), ("pooled", "asked")])
def test_shapes_of_a_forward_pass_are_those_of_arithmetic(pool: Pool, squares: Path, kind: str, source: str) -> None:
    found = pool.run("tests.pretrain.cases:inspecting", 1, world=str(squares), kind=kind, source=source)[0]
    shown, text = found["shown"], found["text"]
    assert shown["measured"] and shown["shapes"] == found["planned"]
    assert len(shown["ids"]) == shown["text_tokens"] + shown["visual_tokens"] == shown["shapes"]["decoder"][0]
    assert shown["positions"] == list(range(len(shown["ids"])))
    assert len({shown["ids"][slot] for slot in shown["slots"]}) == 1  # all are the image's id
    assert sum(target >= 0 for target in shown["targets"]) == shown["label_tokens"]
    assert f"{shown['text_tokens']} text + {shown['visual_tokens']} visual = {len(shown['ids'])} positions" in text
    learned = "green" if source == "asked" else "a"
    assert "\033[32;1m" in text and "\033[36m" in text
    painted = [piece.split("\033[0m")[0] for piece in text.split("\033[32;1m")[1:]]
    assert len(painted) == shown["label_tokens"] and painted[-1] == "<|end|>"
    assert learned.startswith(painted[0].strip())


def test_only_small_models_are_made() -> None:
    assert parameters_of(load_recipe("demo_sft").model, 2048) < LARGE
    big = load_recipe("demo_sft", ["model.decoder={layers: 32, width: 4096, heads: 32, mlp_width: 11008}"])
    assert 6e9 < parameters_of(big.model, 32000) < 8e9
