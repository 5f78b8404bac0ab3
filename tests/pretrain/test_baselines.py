"""What can be had without looking: the numbers of easy-VQA's published splits, and the back-off."""

import pytest

from pretrain.baselines import TextOnly, accuracy
from pretrain.questions import answer_type


def test_easy_vqa_can_be_answered_blind() -> None:
    """66.9 % of the published test questions; "yes" alone 37.3 %. Exact counts: nothing here is random."""
    easy_vqa = pytest.importorskip("easy_vqa")
    texts, truths, _ = easy_vqa.get_train_questions()
    asked, wanted, _ = easy_vqa.get_test_questions()
    assert (len(texts), len(asked)) == (38_575, 9_673)
    blind = TextOnly(texts, truths)
    scores = accuracy([blind(text) for text in asked], wanted)
    assert round(scores["all"] * 9_673) == 6_475  # 66.9 %
    assert {name: round(100 * share, 1) for name, share in scores.items()} == {
        "all": 66.9,
        "yes_no": 82.5,
        "shape": 34.3,  # a third of three, and a twelfth of eight: text says nothing
        "colour": 12.0,
    }
    assert blind.majority == "yes"
    assert round(100 * accuracy(["yes"] * len(wanted), wanted)["all"], 1) == 37.3


def test_likeliest_answer_of_each_text() -> None:
    blind = TextOnly(["what shape?"] * 3 + ["is it red?"] * 2, ["circle", "square", "square", "no", "no"])
    assert blind("what shape?") == "square"
    assert blind("is it red?") == "no"


def test_an_unknown_text_backs_off_to_its_template_then_to_all() -> None:
    texts = ["is there a red shape?", "is there a blue shape?", *["what is the shape?"] * 3]
    blind = TextOnly(texts, ["yes", "yes", "circle", "circle", "circle"])
    assert blind.majority == "circle"
    assert blind("is there a teal shape?") == "yes"
    assert blind("name something") == "circle"


def test_ties_do_not_hang_on_the_order_of_training() -> None:
    assert TextOnly(["a"] * 2, ["no", "yes"])("a") == TextOnly(["a"] * 2, ["yes", "no"])("a") == "no"


def test_accuracy_by_type_of_the_true_answer() -> None:
    scores = accuracy(["yes", "no", "circle", "red"], ["yes", "yes", "circle", "blue"])
    assert scores == {"all": 0.5, "yes_no": 0.5, "shape": 1.0, "colour": 0.0}
    assert answer_type("a cat on a mat") == "other"
