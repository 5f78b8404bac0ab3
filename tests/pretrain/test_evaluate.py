"""Evaluation: the same scores one by one and together, on one rank and two; what a model that looks scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import UserError
from data_pipeline.stream.images import decode
from data_pipeline.stream.read.dataset import Dataset
from pretrain import captions as caption_module
from pretrain import vqa
from pretrain.evaluate import evaluate, summary_of
from pretrain.generate import Answer, Generator
from pretrain.mesh import Mesh
from pretrain.questions import questions_of
from pretrain.retrieval import wilson
from tests.pretrain.squares import COLOURS, captions, opened
from tests.support.datasets import write_dataset
from tests.support.pool import Pool

CASES = "tests.pretrain.cases:"
ALONE = Mesh(0, 1, 0, 1, 0, 1, torch.device("meta"), None, None, None)
"""One rank that never forms a group: enough where no model runs."""


@pytest.mark.parametrize("kind", ["vit", "cnn"])
def test_scores_with_a_shared_prefill_are_the_training_losses(pool: Pool, squares: Path, kind: str) -> None:
    """fp32: worst difference measured 2e-6; a wrong position, a stale cache or padding that counts gives 1e-2 and more."""
    found = pool.run(CASES + "scoring", 1, world=str(squares), kind=kind)[0]
    assert found["said"] == found["said alone"]
    assert len(found["losses"]) == 6
    np.testing.assert_allclose(found["losses"], found["losses alone"], atol=2e-5, rtol=0)
    np.testing.assert_allclose(found["captions"], found["captions alone"], atol=2e-4, rtol=0)
    assert np.std(found["losses"]) > 0.01, "all losses alike: the test would not see a mix-up"


def test_one_rank_and_two_find_the_same(pool: Pool, squares: Path, tmp_path: Path) -> None:
    one = pool.run(CASES + "evaluation", 1, world=str(squares), kind="vit", out=str(tmp_path / "one"))[0]
    two, other = pool.run(CASES + "evaluation", 2, world=str(squares), kind="vit", out=str(tmp_path / "two"))
    assert two == other, "ranks disagree"
    for name in ("predictions.jsonl", "captions.jsonl", "showcase.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert _numbers(one) == pytest.approx(_numbers(two), abs=1e-5)  # groups of other sizes round otherwise
    rows = [json.loads(line) for line in (tmp_path / "one" / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(36))
    assert {row["type"] for row in rows} == {"colour", "yes_no"}
    assert set(rows[0]) == {"id", "type", "answer", "truth", "loss", "question", "image_id"}
    assert one["vqa"]["questions"] == 36 and one["swap"]["pairs"] == 36
    assert "retrieval_at_1_of_14" in one["caption"] and one["caption"]["chance"] == 1 / 14
    lines = summary_of({"run": "r", "step": 1, "seconds": 2.0, "image_swap": one["swap"], **one})
    assert "text only" in lines and "both of a pair" in lines and "retrieval" in lines


def _numbers(results: dict[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in results.items():
        if isinstance(value, dict):
            flat |= _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, float | int):
            flat[prefix + name] = float(value)
    return flat


def test_held_out_loss_is_the_mean_over_learned_tokens(pool: Pool, squares: Path) -> None:
    """fp32: measured 1e-7 relative; a leak between samples of a row, or a mean of means, moves it by 1e-3."""
    for found in pool.run(CASES + "losses_of_stored_samples", 2, world=str(squares)):
        assert found["tokens"] == found["tokens alone"]
        assert found["loss"] == pytest.approx(found["loss alone"], rel=1e-5)


@pytest.mark.parametrize("count", [7, 2, 0])
def test_work_is_dealt_once_and_comes_back_in_order(pool: Pool, count: int) -> None:
    found = pool.run(CASES + "sharing", 3, count=count)
    for rank, result in enumerate(found):
        assert [text.split(" ")[0] for text in result["dealt"]] == [str(n) for n in range(count)]
        assert all(f"by {n % 3} " in text for n, text in enumerate(result["dealt"]))
        assert result["called"] == ([list(range(rank, count, 3))] if rank < count else [])
        assert result["gathered"] == [{"rank": n} for n in range(3)]


def answers_of(model: str, run: Any) -> Any:
    """Stands in for `ask`: `looks` answers by the prompt's picture, `blind` says the same to every picture."""

    def answer(prompt: Any) -> str:
        mean = prompt.images[0].reshape(-1, 3).mean(0)
        seen = min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))
        if model == "blind" or np.ptp(mean) < 50:
            seen = "red"
        text = run.chat.decode(prompt.encoded.ids.tolist())
        if "what color" in text:
            return seen
        return "yes" if seen in text else "no"

    def ask(generator: Any, prompts: Any, wanted: Any, max_new: int) -> list[list[Any]]:
        said = [answer(prompt) for prompt in prompts]
        return [
            [text, [0.1 if run.chat.decode(ids) == text else 5.0 for ids in answers]]
            for text, answers in zip(said, wanted, strict=True)
        ]

    return ask


@pytest.fixture
def scored(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Scores of the questions about squares under a model that looks, or one that does not."""
    run = opened(ALONE, str(squares), "vit", with_model=False)
    monkeypatch.setattr(vqa, "heldout_loss", lambda *_: {"loss": 0.0, "tokens": 0})
    monkeypatch.setattr(vqa, "write_showcase", lambda *_: None)

    def score(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
        monkeypatch.setattr(vqa, "ask", answers_of(model, run))
        return vqa.evaluate_questions(run, tmp_path, f"{squares}/asked", f"{squares}/asked")

    return score


def test_a_model_that_looks(scored: Any) -> None:
    found, swap = scored("looks")
    assert found["accuracy"] == 1.0 and found["by_type"] == {"colour": 1.0, "yes_no": 1.0}
    assert found["text_only"] < 0.6
    assert swap["pair_accuracy"] == 1.0
    assert swap["right"] == pytest.approx(0.1) and swap["wrong"] == pytest.approx(5.0)
    assert swap["p_value"] < 0.001
    assert 0.1 < swap["blank"] < 5.0 and swap["blank_accuracy"] < 0.7  # a blank picture is answered as if red


def test_a_model_that_does_not_look(scored: Any) -> None:
    found, swap = scored("blind")
    assert found["accuracy"] == pytest.approx(swap["blank_accuracy"])
    assert swap["pair_accuracy"] == 0.0
    assert swap["right"] == pytest.approx(swap["blank"])


def test_common_captions_do_not_win(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: every caption is likelier by 2 nats with its own picture; how likely it is anyway differs by far more."""
    run = opened(ALONE, str(squares), "vit", with_model=False)
    dataset = Dataset(f"{squares}/captioned")
    place = {decode(dataset.read(index).images[0]).tobytes(): index for index in range(len(dataset))}
    anyway = np.random.default_rng(1).normal(-30, 8, len(place))

    def planted(generator: Any, prompts: Any, texts: Any) -> Any:
        assert len(texts) == len(place)
        return np.array([anyway + 2.0 * (np.arange(14) == place.get(p.images[0].tobytes(), -1)) for p in prompts])

    monkeypatch.setattr(caption_module, "caption_scores", planted)
    monkeypatch.setattr(caption_module, "heldout_loss", lambda *_: {"loss": 0.0, "tokens": 0})
    monkeypatch.setattr(Generator, "answer", lambda self, prompts, most: [Answer([], "a square", []) for _ in prompts])
    found = caption_module.evaluate_captions(run, tmp_path, f"{squares}/asked", f"{squares}/captioned")
    assert found["retrieval_at_1_of_14"] == 1.0 and found["interval"] == list(wilson(14, 14))
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert all(row["right"] and row["retrieved"] == row["truth"] and row["said"] == "a square" for row in rows)


def test_questions_of_a_conversation_are_asked_on_their_own(squares: Path) -> None:
    questions = questions_of(Dataset(f"{squares}/asked"))
    assert [q.id for q in questions] == list(range(36)) and [q.image_id for q in questions] == [
        n // 2 for n in range(36)
    ]
    assert questions[0].sample == 17 and questions[0].text == "what color is it?" and questions[0].truth == "blue"
    assert [message.content for message in questions[1].messages] == ["<image>" + questions[1].text]


def test_nothing_to_evaluate_is_said_in_one_sentence(squares: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="evaluate has no data"):
        evaluate(ALONE, "anything", str(tmp_path))
    run = opened(ALONE, str(squares), "vit", with_model=False)
    with pytest.raises(UserError, match="captioned holds no questions"):
        vqa.evaluate_questions(run, tmp_path, f"{squares}/asked", f"{squares}/captioned")
    write_dataset(tmp_path / "one", list(captions(1)))
    with pytest.raises(UserError, match="retrieval needs two"):
        caption_module.evaluate_captions(run, tmp_path, f"{squares}/asked", str(tmp_path / "one"))
