"""One way to print a result: text for people, JSON for programs."""

import json
from dataclasses import asdict, is_dataclass
from typing import Any


def emit(data: Any, text: str, as_json: bool) -> None:
    """Print `data` as one line of JSON, or `text`."""
    print(as_line(data) if as_json else text.rstrip("\n"))


def as_line(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    """What json does not know: dataclasses, numpy scalars and arrays, sets."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)
