"""The image-swap test: its pairs, its p-value, and what models that look or do not look score."""

import numpy as np

from pretrain.questions import Question
from pretrain.swap import bootstrap_p, make_pairs, pair_accuracy, swap_scores


def asked(*rows: tuple[int, str, str]) -> list[Question]:
    """Questions from (picture's id, text, truth)."""
    return [Question(number, text, truth, image, 0, image) for number, (image, text, truth) in enumerate(rows)]


COLOUR, RED = "what color?", "is it red?"


def test_a_pair_is_the_next_picture_by_id_cyclic_with_the_same_text_and_another_answer() -> None:
    questions = asked(
        (0, COLOUR, "red"),
        (1, COLOUR, "red"),  # the same answer: passed over
        (2, RED, "no"),  # another text: passed over
        (4, COLOUR, "blue"),
        (7, COLOUR, "red"),
        (7, RED, "yes"),
        (9, "how many?", "one"),  # nobody else is asked that: no pair
    )
    assert make_pairs(questions) == [(0, 3), (1, 3), (2, 5), (3, 4), (4, 3), (5, 2)]


def test_the_order_of_questions_is_not_the_order_of_pictures() -> None:
    questions = asked((9, COLOUR, "red"), (3, COLOUR, "blue"), (5, COLOUR, "green"))
    assert make_pairs(questions) == [(0, 1), (1, 2), (2, 0)]


def test_one_picture_is_no_pair_with_itself() -> None:
    assert make_pairs(asked((1, COLOUR, "red"), (1, COLOUR, "blue"))) == []


def test_a_model_that_looks_and_one_that_does_not() -> None:
    questions = asked(*[(n, COLOUR, ("red", "blue", "green")[n % 3]) for n in range(12)])
    pairs = make_pairs(questions)
    assert len(pairs) == 12
    assert pair_accuracy(pairs, [True] * 12) == 1.0
    blind = [question.truth == "red" for question in questions]  # the same answer to the same text
    assert sum(blind) == 4 and pair_accuracy(pairs, blind) == 0.0
    assert pair_accuracy([], blind) is None


def test_losses_belong_to_the_first_question_of_a_pair() -> None:
    questions = asked((0, COLOUR, "red"), (1, COLOUR, "blue"), (2, "lonely?", "no"))
    pairs = make_pairs(questions)
    scores = swap_scores(pairs, [0.1, 0.3, 9.0], [2.0, 4.0], [1.0, 1.5, 9.0], [True, False, True])
    assert (scores["right"], scores["wrong"], scores["blank"]) == (0.2, 3.0, 1.25)
    assert scores["pair_accuracy"] == 0.0 and scores["pairs"] == 2
    empty = swap_scores([], [0.1], [], [0.2], [True])
    assert empty["right"] is None and empty["p_value"] == 1.0


def test_p_value_of_equal_losses_of_noise_and_of_a_clear_gap() -> None:
    """10,000 seeded resamples: exact values on this seed; bounds leave room for another numpy's random stream."""
    random = np.random.default_rng(3)
    losses = random.exponential(size=400)
    assert bootstrap_p(losses, losses) == 1.0
    noise = losses + random.normal(size=400)
    noise -= (noise - losses).mean()  # no gap at all on average: p near one half (0.50 measured)
    assert 0.45 < bootstrap_p(losses, noise) < 0.55
    assert bootstrap_p(losses, losses + 0.5 + random.normal(size=400)) == 1 / 10_001  # the least there is
    assert bootstrap_p(losses, losses - 0.5 + random.normal(size=400)) > 0.999  # one-sided
    weak = losses + random.normal(0.06, 1.0, size=400)
    assert bootstrap_p(losses, weak) == bootstrap_p(losses, weak)
