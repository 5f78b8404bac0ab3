"""Values of a row as an expression meets them: what is null, text that means a number, and how two are compared."""

import operator
import re
from collections.abc import Callable
from datetime import date, time
from decimal import Decimal
from typing import Any

import numpy as np

MOST_INT = 2**63
"""Integers beyond become floats: numbers of unbounded length would take unbounded time."""
MOST_SHOWN = 40
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_LITERALS = ("True", "False")
_ORDERS = (operator.lt, operator.le, operator.gt, operator.ge)


class Null:
    """A value that is not known, because `why` (a column or a part of the expression) is null."""

    def __init__(self, why: str):
        self.why = why


class BadValue(Exception):
    """A value of a row that the expression cannot take."""


def plain(name: str, value: Any) -> Any:
    """What a source says -> bool, int, float, str or Null; dates as ISO text. Raises BadValue."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Decimal):
        value = float(value)
    if value is None or (isinstance(value, float) and value != value):
        return Null(name)
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return bounded(value)
        except OverflowError:
            raise BadValue(f"{name} is too large a number") from None
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bool | float | str):
        return value
    raise BadValue(f"{name} is no number or text ({type(value).__name__})")


def shown(value: Any) -> str:
    """A value in a row's reason: short, and the same words for the same value."""
    if value is None or isinstance(value, bool | int | float | Decimal | date | time | np.generic):
        text = str(value)
    else:
        text = repr(value[:MOST_SHOWN]) if isinstance(value, str) else f"({type(value).__name__})"
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."


def bounded(value: int | float) -> int | float:
    """Raises OverflowError for what no float holds."""
    return value if isinstance(value, float) or abs(value) <= MOST_INT else float(value)


def read_number(text: str) -> int | float | None:
    """The number that a text is, None where it is none. `1_000`, `nan` and `inf` are none."""
    text = text.strip()
    if len(text) > 64 or not _NUMBER.fullmatch(text):
        return None
    return bounded(int(text)) if _WHOLE.fullmatch(text) else float(text)


def as_number(value: Any, said: str) -> Any:
    """A number, or Null. `said` is the part of the expression that the value came from."""
    if isinstance(value, str):
        if not value.strip():
            return Null(said)
        number = read_number(value)
        if number is None:
            raise BadValue(f"{said} is {shown(value)}, not a number")
        return number
    if isinstance(value, bool):
        raise BadValue(f"{said} is {value}, not a number")
    return value


def as_bool(value: Any, said: str) -> Any:
    """True or False, or Null."""
    if isinstance(value, str):
        text = value.strip().casefold()
        if text in ("true", "false", ""):
            return text == "true" if text else Null(said)
    if isinstance(value, bool | Null):
        return value
    raise BadValue(f"{said} is {shown(value)}, not true or false")


def compare(work: Callable[[Any, Any], bool], left: Any, right: Any, of_left: str, of_right: str) -> Any:
    """`left work right`: True, False or Null. Raises BadValue for kinds that do not meet."""
    ordered = work in _ORDERS
    if isinstance(left, Null) or isinstance(right, Null):
        return left if isinstance(left, Null) else right
    if isinstance(left, str) and isinstance(right, str):
        numbers = (read_number(left), read_number(right)) if ordered else (None, None)
        return work(left, right) if None in numbers else work(*numbers)
    logical = all(isinstance(side, bool | str) for side in (left, right)) or not {of_left, of_right}.isdisjoint(
        _LITERALS
    )
    meet = as_bool if logical else as_number
    left, right = meet(left, of_left), meet(right, of_right)
    if isinstance(left, Null) or isinstance(right, Null):
        return left if isinstance(left, Null) else right
    if meet is as_bool and ordered:
        raise BadValue(f"{of_left} is {left}, which has no order")
    return work(left, right)
