"""All rules of a recipe together: each asked at its moment, in one order; and the user's own functions."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.ingest import FiltersConfig, TextConfig
from data_pipeline.ingest.filters.predicates import Predicate
from data_pipeline.ingest.filters.rules import Filters
from data_pipeline.ingest.record import ImageRef, Record
from data_pipeline.sample import Message, Reject
from tests.data_pipeline.ingest.filters.conftest import sample

Write = Callable[[str, str], Path]
NOTHING = hashlib.sha256(b"").digest()


def filters(**given: Any) -> Filters:
    return Filters(FiltersConfig(**given), TextConfig())


def record(text: str = "a cat", *urls: str, **columns: Any) -> Record:
    return Record(tuple(ImageRef(url) for url in urls), text, columns=columns)


@pytest.fixture
def lists(tmp_path: Path) -> dict[str, str]:
    """A list of each kind: settings of a recipe."""
    content = {"domains": "evil.com\n", "hashes": hashlib.sha256(b"bad").hexdigest(), "words": "# mine\ndog\n"}
    for name, text in content.items():
        (tmp_path / f"{name}.txt").write_text(text)
    return {name: str(tmp_path / f"{name}.txt") for name in content}


def test_without_rules_everything_passes() -> None:
    held = filters()
    assert held.columns == frozenset() and held.lists == {}
    assert held.before_fetch(record("a dog", "https://evil.com/a.jpg")) is None
    assert held.before_decode(NOTHING, 1, 100_000) is None
    assert held.on_sample(sample()) is None


def test_before_a_picture_is_fetched(lists: dict[str, str]) -> None:
    held = filters(where="similarity > 0.3", **lists)
    assert held.columns == {"similarity"}
    assert held.before_fetch(record("a cat", "https://good.org/a", "s3://bucket/b", similarity=0.5)) is None
    for row, reason, detail in (
        (record("", "https://evil.com/a"), "empty_text", ""),
        (record("a dog", "https://evil.com/a"), "expression", "similarity is null"),
        (record("a dog", "https://evil.com/a", similarity=0.25), "expression", "similarity=0.25"),
        (record("a dog", "https://good.org/a", "https://x.evil.com/a", similarity=0.5), "domain", "evil.com"),
        (record("a Dog", "https://good.org/a", similarity=0.5), "word", "words.txt line 2"),
    ):
        assert held.before_fetch(row) == Reject("filter", reason, detail)


def test_words_are_looked_for_in_every_turn_but_not_across_them(lists: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("dog\ncat cow\n")
    held = filters(words=lists["words"])

    def talk(question: str, answer: str, rejected: str | None = None) -> Record:
        turns = (Message("user", question), Message("assistant", answer))
        return Record((), None, turns, rejected=rejected)

    assert held.before_fetch(talk("a cat", "cow")) is None
    for row in (talk("a dog?", "no"), talk("what?", "a dog"), talk("what?", "a cow", "a dog")):
        assert held.before_fetch(row) == Reject("filter", "word", "words.txt line 1")


@pytest.mark.parametrize(
    ("rules", "size", "reason"),
    [
        ({"min_side": 100}, (99, 500), "too_small"),
        ({"min_side": 100}, (500, 99), "too_small"),
        ({"min_area": 10_001}, (100, 100), "too_small"),
        ({"max_area": 9_999}, (100, 100), "too_large"),
        ({"max_aspect": 2.0}, (100, 201), "aspect"),
        ({"max_aspect": 2.0}, (201, 100), "aspect"),
        ({"min_side": 100, "min_area": 10_000, "max_area": 10_000, "max_aspect": 1.0}, (100, 100), None),
        ({"max_aspect": 2.0}, (200, 100), None),
    ],
)
def test_sizes(rules: dict[str, Any], size: tuple[int, int], reason: str | None) -> None:
    expected = None if reason is None else Reject("filter", reason, f"{size[0]}x{size[1]}")
    assert filters(**rules).before_decode(NOTHING, *size) == expected


def test_hashes_come_before_sizes(lists: dict[str, str]) -> None:
    held, bad = filters(hashes=lists["hashes"], min_side=100), hashlib.sha256(b"bad").digest()
    assert held.before_decode(bad, 1, 1) == Reject("filter", "hash", bad.hex())
    assert held.before_decode(NOTHING, 100, 100) is None


def test_a_changed_list_is_another_identity(lists: dict[str, str]) -> None:
    before = filters(**lists).lists
    assert before == {name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for name, path in lists.items()}
    Path(lists["words"]).write_text("dog")
    assert {n for n, digest in filters(**lists).lists.items() if digest != before[n]} == {"words"}


MINE = """
import numpy as np
class Odd:
    pass
def yes(sample): return True
def none(sample): pass
def numpy_yes(sample): return np.bool_(True)
def no(sample): return False
def numpy_no(sample): return np.bool_(False)
def why(sample): return "it shows\\n a " + sample.text + "!" * 1000
def fails(sample): raise ValueError(f"{object()} is odd\\nand more")
def empty(sample): raise KeyError
def number(sample): return 1
def memory(sample): raise MemoryError
not_a_function = 3
"""


@pytest.mark.parametrize(
    ("name", "reason", "detail"),
    [
        ("yes", None, ""),
        ("none", None, ""),
        ("numpy_yes", None, ""),
        ("no", "predicate/mine:no", ""),
        ("numpy_no", "predicate/mine:numpy_no", ""),
        ("why", "predicate/mine:why", ("it shows a a cat" + "!" * 1000)[:200]),
        ("fails", "predicate_error", "mine:fails: ValueError: <object object at 0x> is odd"),
        ("empty", "predicate_error", "mine:empty: KeyError"),
        ("number", "predicate_error", "mine:number: returned int, not True, False, None or a text"),
    ],
)
def test_a_function_of_the_user(user_module: Write, name: str, reason: str | None, detail: str) -> None:
    user_module("mine", MINE)
    expected = None if reason is None else Reject("filter", reason, detail)
    assert filters(predicates=["mine:yes", f"mine:{name}"]).on_sample(sample()) == expected


def test_no_memory_is_not_the_samples_fault(user_module: Write) -> None:
    user_module("mine", MINE)
    with pytest.raises(MemoryError):
        filters(predicates=["mine:memory"]).on_sample(sample())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:f", r"module no_such_module cannot be imported \(ModuleNotFoundError.*\): .* PYTHONPATH"),
        ("broken:f", r"module broken cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("mine:f", "there is no f in mine: name one as module:function"),
        ("mine:not_a_function", "not_a_function is no function or class in mine"),
    ],
)
def test_a_function_that_is_not_there_is_said_at_once(user_module: Write, name: str, said: str) -> None:
    user_module("mine", MINE)
    user_module("broken", "1 / 0")
    with pytest.raises(UserError, match=f"filters.predicates {name}: {said}") as caught:
        filters(predicates=[name])
    assert "\n" not in str(caught.value)


def test_filters_travel(lists: dict[str, str], user_module: Write) -> None:
    """Pickled to a worker they ask the same, and carry names of functions, not code."""
    user_module("mine", MINE)
    held = pickle.loads(pickle.dumps(filters(where="x > 1", predicates=["mine:no"], **lists)))
    assert held.columns == {"x"}
    assert held.before_fetch(record("a dog", x=2)) == Reject("filter", "word", "words.txt line 2")
    assert held.on_sample(sample()) == Reject("filter", "predicate/mine:no")
    assert held.before_decode(hashlib.sha256(b"bad").digest(), 9, 9) is not None
    assert b"def " not in pickle.dumps(Predicate("mine:no"))
