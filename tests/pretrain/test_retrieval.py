"""Retrieval: planted scores, the prior that keeps common captions from winning, Wilson's interval."""

import doctest

import numpy as np
import pytest

import pretrain.retrieval
from pretrain.retrieval import marginal, retrieval_at_1, wilson


def test_planted_scores() -> None:
    scores = np.full((3, 100), -5.0)
    scores[0, 7] = scores[1, 8] = scores[2, 0] = -1.0
    assert retrieval_at_1(scores, [7, 8, 9]) == [True, True, False]


def test_the_prior_takes_the_advantage_from_common_captions() -> None:
    """log p(c | v) = likelihood of the caption anyway + 2 nats where it is the picture's own."""
    random = np.random.default_rng(0)
    anyway = random.normal(-20, 6, 50)
    scores = anyway + 2.0 * np.eye(50) + random.normal(0, 0.3, (50, 50))
    training = anyway + random.normal(0, 0.3, (64, 50))
    assert np.mean(retrieval_at_1(scores, range(50))) <= 0.04  # the commonest win everywhere
    assert np.mean(retrieval_at_1(scores - marginal(training), range(50))) > 0.95


def test_marginal_is_a_mean_of_probabilities() -> None:
    p = np.array([[0.5, 0.1], [0.1, 0.3]])
    np.testing.assert_allclose(np.exp(marginal(np.log(p))), [0.3, 0.2])
    assert np.isfinite(marginal(np.full((4, 2), -2000.0))).all()  # long captions: no underflow


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [  # published values of Wilson's score interval at 95 %
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 100, 0.0552, 0.1744),
        (100, 100, 0.9630, 1.0),
    ],
)
def test_wilson(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right, count) == pytest.approx((low, high), abs=1e-4)


def test_examples() -> None:
    assert doctest.testmod(pretrain.retrieval).failed == 0
