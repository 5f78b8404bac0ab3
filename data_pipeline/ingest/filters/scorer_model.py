"""One instance of a user's class, and what it says as data: scores, or why there is none. In an actor or in this process.

An exception travels as its words: it need not be one that another process can read.
"""

import time
from typing import Any

import numpy as np

from configs.errors import RunError, UserError
from configs.ingest import ScorerConfig
from data_pipeline.ingest.filters.predicates import load_named, said

DIGITS = 4
TRIES = 3
PAUSE = 1.0
"""Seconds before a failure that may pass is tried again."""
Batch = tuple[list[list[np.ndarray]], list[str], str]
"""Pictures and text of each sample, and the key of the first."""
Answer = float | None | str
"""Of one sample: a score, none, or what went wrong."""


class Model:
    """A scorer's instance, made when it is first needed."""

    def __init__(self, config: ScorerConfig):
        self.config, self.instance = config, None
        self.label = f"filters.scorers {config.name}"

    def load(self) -> None:
        """Make the instance, once.

        Raises:
            UserError: the class is not there, or cannot be made.
        """
        if self.instance is None:
            made = load_named(self.config.function, self.label)
            try:
                self.instance = made()
            except UserError:
                raise
            except Exception as error:
                raise UserError(
                    f"{self.label}: {self.config.function}() fails ({said(error)}): it is made without arguments"
                ) from None

    def score(self, pictures: list[list[np.ndarray]], texts: list[str]) -> list[Answer]:
        """An answer for each sample of a batch."""
        self.load()
        pictures = [[_read_only(picture) for picture in group] for group in pictures]
        try:
            return self._try(pictures, texts)
        except Exception as error:
            if isinstance(error, UserError | RunError):
                raise
            answers: list[Answer] = []
            for picture, text in zip(pictures, texts, strict=True):  # alone: which one is it?
                answers.append(self._alone(picture, text))
            if len(answers) > 1 and all(isinstance(answer, str) for answer in answers):
                raise RunError(
                    f"{self.label} failed on each of {len(answers)} samples ({said(error)}): mend {self.config.function}"
                ) from None
            return answers

    def _alone(self, pictures: list[np.ndarray], text: str) -> Answer:
        try:
            return self._try([pictures], [text])[0]
        except (UserError, RunError):
            raise
        except Exception as error:
            return said(error)

    def _try(self, pictures: list[list[np.ndarray]], texts: list[str]) -> list[Answer]:
        """Call the instance, again where the failure may pass."""
        assert self.instance is not None
        for left in reversed(range(TRIES)):
            try:
                return self._checked(self.instance(pictures, texts), len(texts))
            except Exception as error:
                if not _may_pass(error):
                    raise
                if not left:
                    raise RunError(
                        f"{self.label} failed {TRIES} times ({said(error)}): lower its batch ({self.config.batch}), "
                        "or mend what it needs"
                    ) from None
                time.sleep(PAUSE)
        raise AssertionError("unreachable")

    def _checked(self, given: Any, count: int) -> list[Answer]:
        remedy = f"{self.config.function} must return a number or None for each sample"
        try:
            scores = list(given)
        except TypeError:
            raise UserError(f"{self.label} returned {type(given).__name__}, not a list: {remedy}") from None
        if len(scores) != count:
            raise UserError(f"{self.label} returned {len(scores)} scores for {count} samples: {remedy}")
        return [None if score is None else self._rounded(score, remedy) for score in scores]

    def _rounded(self, score: Any, remedy: str) -> Answer:
        try:
            if isinstance(score, str | bytes):
                raise TypeError("text")
            value = float(score)
        except (TypeError, ValueError, RuntimeError):
            raise UserError(f"{self.label} returned {type(score).__name__} as a score: {remedy}") from None
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else f"the score is {value}"


def _read_only(picture: np.ndarray) -> np.ndarray:
    """As on Ray, where workers share the memory of pictures."""
    view = picture.view()
    view.flags.writeable = False
    return view


def _may_pass(error: Exception) -> bool:
    """Memory, files, network, or a GPU that is in trouble: next time it may be well."""
    name = type(error).__name__
    return isinstance(error, MemoryError | OSError) or name in ("OutOfMemoryError", "AcceleratorError")
