"""The user's own functions, named `module:function` in the recipe: Sample -> keep it, or why not.

A recipe that names a function runs that function's code, with the rights of the build: read recipes of others before
you build them. Their module is imported from Python's path; on a cluster it must be there on every node.

The function returns True or None to keep the sample, False to reject it, or a text that says why. It should depend on
the sample alone (no clock, no random numbers) and leave it unchanged, so that a build that is killed and taken up
makes the same dataset. What it raises rejects the sample, and is counted.
"""

import importlib
import re
from typing import Any

import numpy as np

from configs.errors import UserError
from data_pipeline.sample import Reject, Sample

MOST_DETAIL = 200
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+")


def load_named(name: str, key: str) -> Any:
    """What `module:name` names.

    Raises:
        UserError: there is no such module, or no such name in it, or it cannot be called.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module does when it loads
        raise UserError(
            f"{key} {name}: module {module_name} cannot be imported ({said(error)}): "
            "install it, or name its folder in PYTHONPATH (on every node)"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        there = f"{attribute} is no function or class" if hasattr(module, attribute) else f"there is no {attribute}"
        raise UserError(f"{key} {name}: {there} in {module_name}: name one as module:function")
    return found


def said(error: Exception) -> str:
    """`ValueError: its first line`, short, without addresses in memory: the same words in every process."""
    lines = _ADDRESS.sub("0x", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:MOST_DETAIL] if lines else type(error).__name__


class Predicate:
    """One function of the recipe."""

    def __init__(self, name: str, key: str = "filters.predicates"):
        self.name, self.key = name, key
        self.function = load_named(name, key)

    def __reduce__(self) -> tuple[type["Predicate"], tuple[str, str]]:
        return Predicate, (self.name, self.key)  # by name, so that no code travels

    def problem(self, sample: Sample) -> Reject | None:
        try:
            answer = self.function(sample)
        except MemoryError:
            raise  # says nothing about the sample
        except Exception as error:
            return Reject("filter", "predicate_error", f"{self.name}: {said(error)}")
        if answer is None or (isinstance(answer, bool | np.bool_) and answer):
            return None
        if isinstance(answer, bool | np.bool_ | str):
            why = " ".join(answer.split())[:MOST_DETAIL] if isinstance(answer, str) else ""
            return Reject("filter", f"predicate/{self.name}", why)
        kind = type(answer).__name__
        return Reject("filter", "predicate_error", f"{self.name}: returned {kind}, not True, False, None or a text")
