"""What can be had without looking: predictors that see only the question's text. A model must beat the best of them."""

import re
from collections import Counter
from collections.abc import Sequence

from pretrain.questions import answer_type


def accuracy(answers: Sequence[str], truths: Sequence[str]) -> dict[str, float]:
    """Share of right answers: `all`, and by type of the true answer."""
    right: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for answer, truth in zip(answers, truths, strict=True):
        for group in ("all", answer_type(truth)):
            count[group] += 1
            right[group] += answer == truth
    return {group: right[group] / count[group] for group in sorted(count)}


class TextOnly:
    """The likeliest answer of each question text in training; an unknown text backs off to its template, then to all.

    This is the best predictor that sees text alone when every test question occurs in training (easy-VQA's do): 66.9 %.
    """

    def __init__(self, questions: Sequence[str], answers: Sequence[str]):
        self.by_text: dict[str, Counter[str]] = {}
        self.by_template: dict[str, Counter[str]] = {}
        self.all: Counter[str] = Counter(answers)
        for question, answer in zip(questions, answers, strict=True):
            self.by_text.setdefault(question, Counter())[answer] += 1
            self.by_template.setdefault(_template(question), Counter())[answer] += 1

    def __call__(self, question: str) -> str:
        counts = self.by_text.get(question) or self.by_template.get(_template(question)) or self.all
        return _commonest(counts)

    @property
    def majority(self) -> str:
        return _commonest(self.all)


def _commonest(counts: Counter[str]) -> str:
    # Ties go to the first in the alphabet: no dependence on the order of training.
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _template(question: str) -> str:
    """A question without its content words: what is left says what kind of answer is asked for."""
    return " ".join(word for word in re.findall(r"[a-z]+", question.lower()) if word in _FUNCTION_WORDS)


_FUNCTION_WORDS = frozenset(
    [
        "what",
        "which",
        "who",
        "where",
        "when",
        "why",
        "how",
        "is",
        "are",
        "was",
        "were",
        "do",
        "does",
        "did",
        "can",
        "could",
    ]
    + ["there", "a", "an", "the", "of", "in", "on", "it", "this", "that", "not", "no"]
)
