"""Trying again what may pass by itself, for a bounded time, then one sentence."""

import itertools
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from data_pipeline.stores.s3_errors import Diagnosis, Meaning, diagnose, sentence

T = TypeVar("T")

RETRY_SECONDS = 120.0
"""A server that has answered this process before may fail (503, reset, time-out) for so long."""

FIRST_SECONDS = 10.0
"""One that nobody answers at, and never did for this process, is probably not where we look."""

FEWEST_TRIES = 2
"""However long the first one took."""

LONGEST_PAUSE = 8.0
log = logging.getLogger(__name__)


class Absent(FileNotFoundError):
    """No such object."""


class ConditionFailed(Exception):
    """If-None-Match: something is there already."""


class PastTheEnd(Exception):
    """A range that begins after the object's end."""


class Patience:
    """How one server has behaved towards this process. `where` names it in sentences."""

    def __init__(self, where: str):
        self.where = where
        self.answered = False

    def with_(self, path: str, attempt: Callable[[], T]) -> T:
        """What `attempt` gives.

        Raises:
            Absent, ConditionFailed, PastTheEnd: answers that a caller knows what to do with.
            UserError: keys, rights, names, or nobody there.
            RunError: it failed for RETRY_SECONDS, is full, or refused for another reason.
        """
        start, pause, told = time.monotonic(), 0.1, False
        for tries in itertools.count(1):
            try:
                result = attempt()
            except Exception as error:
                diagnosis = diagnose(error)
                if diagnosis is None:
                    raise
                self._answer(diagnosis, path)
                spent = time.monotonic() - start
                budget = self._budget(diagnosis)
                if not budget or (spent + pause > budget and tries >= FEWEST_TRIES):
                    raise sentence(diagnosis, path, self.where, spent) from None
                if spent > 5 and not told:
                    told = True
                    log.warning("%s: %s: %s; trying for %.0f s", path, self.where, diagnosis.said, RETRY_SECONDS)
                time.sleep(pause * random.uniform(0.5, 1.0))  # many workers do not come back at the same moment
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                self.answered = True
                return result
        raise AssertionError("it counts without end")

    def _answer(self, diagnosis: Diagnosis, path: str) -> None:
        """Raise what needs no sentence."""
        self.answered |= diagnosis.answered
        match diagnosis.meaning:
            case Meaning.ABSENT:
                raise Absent(f"{path} does not exist") from None
            case Meaning.CONDITION:
                raise ConditionFailed from None
            case Meaning.RANGE:
                raise PastTheEnd from None

    def _budget(self, diagnosis: Diagnosis) -> float:
        """Seconds from the first try within which this may be tried again."""
        if diagnosis.meaning is Meaning.TRANSIENT or diagnosis.meaning is Meaning.UNREACHABLE:
            return RETRY_SECONDS if self.answered else FIRST_SECONDS
        return 0.0
