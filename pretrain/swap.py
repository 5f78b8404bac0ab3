"""The image-swap test: does the answer hang on the picture?

A pair is a test question and the next picture, by id, cyclic, that has the same question text and another answer. The
true answer's loss with its own picture is set against that with the other picture and with a blank one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.questions import Question

RESAMPLES = 10_000


def make_pairs(questions: Sequence[Question]) -> list[tuple[int, int]]:
    """(place of a question, place of its partner) for every question that has one."""
    images = sorted({question.image_id for question in questions})
    rank = {image: place for place, image in enumerate(images)}
    by_text: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        by_text.setdefault(question.text, []).append(place)
    pairs = []
    for place, question in enumerate(questions):
        here = rank[question.image_id]
        others = [
            ((rank[questions[other].image_id] - here) % len(images), questions[other].id, other)
            for other in by_text[question.text]
            if questions[other].truth != question.truth and questions[other].image_id != question.image_id
        ]
        if others:
            pairs.append((place, min(others)[2]))
    return pairs


def swap_scores(
    pairs: Sequence[tuple[int, int]],
    right: Sequence[float],
    wrong: Sequence[float],
    blank: Sequence[float],
    hits: Sequence[bool],
) -> dict[str, Any]:
    """The test's numbers; None where there is no pair.

    Args:
        right, blank: loss of each question's true answer with its own, and with a blank picture.
        wrong: loss of the true answer of each pair's first question with the second's picture.
        hits: whether each question was answered rightly.
    """
    own, other = np.array([right[a] for a, _ in pairs]), np.asarray(wrong, float)
    empty = np.array([blank[a] for a, _ in pairs])
    return {
        "right": float(own.mean()) if pairs else None,
        "wrong": float(other.mean()) if pairs else None,
        "blank": float(empty.mean()) if pairs else None,
        "p_value": bootstrap_p(own, other),
        "pair_accuracy": pair_accuracy(pairs, hits),
        "pairs": len(pairs),
    }


def pair_accuracy(pairs: Sequence[tuple[int, int]], right: Sequence[bool]) -> float | None:
    """Share of pairs with both questions answered rightly; None without pairs. A model that does not look scores 0."""
    return float(np.mean([right[a] and right[b] for a, b in pairs])) if pairs else None


def bootstrap_p(first: NDArray[np.floating], second: NDArray[np.floating], seed: int = 0) -> float:
    """One-sided paired bootstrap: how likely a mean of `second - first` not above 0 is, over RESAMPLES resamples."""
    difference = np.asarray(second, float) - np.asarray(first, float)
    if not len(difference):
        return 1.0
    rng = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    block = max(1, 4_000_000 // len(difference))
    for start in range(0, RESAMPLES, block):
        count = min(block, RESAMPLES - start)
        means[start : start + count] = difference[rng.integers(0, len(difference), (count, len(difference)))].mean(1)
    return float((1 + (means <= 0).sum()) / (1 + RESAMPLES))
