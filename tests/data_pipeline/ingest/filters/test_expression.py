"""Expressions: what holds for which row, why a row is refused, and that no text of a recipe is ever run."""

import ast
import datetime
import decimal
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import UserError
from data_pipeline.ingest.filters import expression
from data_pipeline.ingest.filters.expression import MOST_CHARS, Expression, names

NAN = float("nan")


def why(source: str, **values: Any) -> str | None:
    return Expression(source, "filters.where").problem(values)


HOLDS = [
    ("similarity > 0.3 and nsfw != 'NSFW'", {"similarity": 0.31, "nsfw": "UNLIKELY"}),
    ("0.3 < similarity <= 0.5", {"similarity": 0.5}),
    ("not (a or b)", {"a": False, "b": False}),
    ("a or b > 1", {"a": True, "b": None}),
    ("x is None or x > 3", {"x": None}),
    ("x is None or x > 3", {"x": 4}),
    ("x is None", {}),
    ("x is not None", {"x": ""}),
    ("nsfw in ('UNLIKELY', 'UNSURE')", {"nsfw": "UNSURE"}),
    ("label not in [1, -2]", {"label": 2}),
    ("label in [1, -2]", {"label": "-2"}),
    ("width * height >= 10000 and width / height < 3", {"width": 200, "height": 100}),
    ("number % 2 == 1", {"number": 7}),
    ("1 + 2 * -x == -(5)", {"x": 3}),
    ("width > height", {"width": "1000", "height": "200"}),  # csv: text, and yet numbers
    ("similarity > 0.3", {"similarity": " 3.1e-1 "}),
    ("id == 9007199254740993", {"id": 9007199254740993}),  # beyond what a float tells apart
    ("flag == True", {"flag": "true"}),
    ("flag", {"flag": "True"}),
    ("flag", {"flag": np.bool_(True)}),
    ("score > 0.25", {"score": np.float32(0.3)}),
    ("price < 3", {"price": decimal.Decimal("2.99")}),
    ("day >= '2020-01-01'", {"day": datetime.date(2021, 5, 1)}),
    ("column['odd name'] > 1", {"odd name": 2}),
    ("gr\u00f6\u00dfe >= 2 and '\u00e4' < name", {"gr\u00f6\u00dfe": 2, "name": "\u00f6"}),
    ("a > 1\n  and b > 1", {"a": 2, "b": 2}),
    ("a > 1  # a note", {"a": 2}),
]


@pytest.mark.parametrize(("source", "values"), HOLDS)
def test_rows_that_are_kept(source: str, values: dict[str, Any]) -> None:
    assert why(source, **values) is None


@pytest.mark.parametrize(
    ("source", "values", "said"),
    [
        ("similarity > 0.3 and nsfw != 'NSFW'", {"similarity": 0.31, "nsfw": "NSFW"}, "nsfw='NSFW', similarity=0.31"),
        ("similarity > 0.3", {"similarity": None}, "similarity is null"),
        ("similarity > 0.3", {}, "similarity is null"),
        ("similarity > 0.3", {"similarity": NAN}, "similarity is null"),
        ("similarity > 0.3", {"similarity": ""}, "similarity is null"),
        ("not similarity < 0.3", {"similarity": None}, "similarity is null"),  # as `>=` would say
        ("nsfw != 'NSFW'", {"nsfw": None}, "nsfw is null"),
        ("label not in (1, 2)", {"label": None}, "label is null"),
        ("label not in (1, 2)", {"label": ""}, "label is null"),
        ("a and b", {"a": False, "b": None}, "a=False, b=None"),
        ("a or b", {"a": False, "b": None}, "b is null"),
        ("a + 1 > 0", {"a": None}, "a is null"),
        ("similarity > 0.3", {"similarity": "high"}, "similarity is 'high', not a number"),
        ("similarity > 0.3", {"similarity": "1_000"}, "similarity is '1_000', not a number"),
        ("similarity > 0.3", {"similarity": "inf"}, "similarity is 'inf', not a number"),
        ("similarity > 0.3", {"similarity": True}, "similarity is True, not a number"),
        ("similarity > 0.3", {"similarity": [1]}, "similarity is no number or text (list)"),
        ("flag", {"flag": 1}, "flag is 1, not true or false"),
        ("flag == True", {"flag": 1}, "flag is 1, not true or false"),
        ("flag > True", {"flag": False}, "flag is False, which has no order"),
        ("a / b > 1", {"a": 1, "b": 0}, "a / b divides by zero"),
        ("a % b > 1", {"a": 1, "b": "0"}, "a % b divides by zero"),
        ("a - b == 0", {"a": 1e999, "b": 1e999}, "a - b is null"),
        ("id == '007'", {"id": "7"}, "id='7'"),
        ("text == 'a'", {"text": "x" * 100}, "text='xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."),
        ("text == 'a'", {"text": "\ud800\n"}, r"text='\ud800\n'"),
        ("n > 1", {"n": 10**400}, "n is too large a number"),
        ("column['odd name'] > 1", {"odd name": 1}, "odd name=1"),
    ],
)
def test_rows_that_are_refused_say_why(source: str, values: dict[str, Any], said: str) -> None:
    assert why(source, **values) == said


def test_products_stay_small_whatever_the_row_says() -> None:
    """Sixty multiplications of large integers are one float, not a number of a thousand digits."""
    assert why(" * ".join(["n"] * 50) + " > 0", n=2**63) is None


def test_columns_are_known_without_a_row() -> None:
    assert names("a > 1 and (b or column['odd name'] == c) and 'd' == e") == {"a", "b", "odd name", "c", "e"}


def test_it_travels() -> None:
    made = pickle.loads(pickle.dumps(Expression("a > 1", "filters.where")))
    assert made.names == {"a"} and made.problem({"a": 0}) == "a=0" and made.problem({"a": 2}) is None


ATTACKS = {
    "import": "__import__('os').system('touch {trap}')",
    "import compared": "x > 1 and __import__('os').system('touch {trap}') == 0",
    "open": "open('{trap}', 'w')",
    "eval": "eval('1')",
    "attribute": "().__class__.__bases__[0].__subclasses__()",
    "attribute of a column": "x.__class__ == 1",
    "format": "'{{0.__class__}}'.format(x) == ''",
    "f-string": "f'{{x}}' == ''",
    "lambda": "(lambda: 1)()",
    "walrus": "(x := 1) > 0",
    "list comprehension": "[y for y in (1, 2)] == x",
    "generator": "any(y for y in (1, 2))",
    "dict comprehension": "{{y: y for y in (1, 2)}} == x",
    "await": "await x",
    "yield": "(yield x)",
    "conditional": "1 if x else 2",
    "subscript": "x[0] > 1",
    "subscript by number": "column[0] > 1",
    "subscript by attack": "column[__import__('os')] > 1",
    "star": "(*x,)",
    "power": "9 ** 9 ** 9 ** 9 > x",
    "shift": "1 << 10000000000 > x",
    "matrix": "x @ x",
    "text bomb": "'a' * 10000000000 == x",
    "text bomb, turned": "10000000000 * 'a' == x",
    "text sum": "'a' + x == 'ab'",
    "text format bomb": "'%9999999999d' % 1 == x",
    "tuple bomb": "(1, 2) * 10000000000 == x",
    "bytes": "b'a' == x",
    "complex": "1j == x",
    "ellipsis": "... == x",
    "set": "{{1}} == x",
    "list alone": "x == [1]",
    "column in a list": "x in (y, z)",
    "text in a column": "'a' in x",
    "two statements": "x > 1; y",
    "assignment": "x = 1",
    "none": "x == None",
    "is a number": "x is 3",
    "invert": "~x > 1",
    "a value": "x + 1",
    "a text": "'x'",
    "chained in": "x in (1, 2) in (3, 4)",
    "chained is": "1 < x is None",
    "answer as a number": "(x > 1) + 1 > 1",
    "answer compared": "(x > 1) == (y > 1)",
    "empty": "",
    "null character": "x > 1\0",
    "doubtful escape": r"x == '\d'",
    "comment eats a line": "x > 1  # note\n and y > 1",
    "deep signs": "-" * 1900 + "x > 1",
    "deep not": "not " * 450 + "x",
    "deep parentheses": "(" * 900 + "x" + ")" * 900,
    "deep lists": "[" * 900 + "]" * 900,
    "deep sum": "x" + "+x" * 900 + " > 1",
    "deep calls": "x" + "()" * 900,
    "deep attributes": "x" + ".a" * 900,
    "deep powers": "x" + "**x" * 600,
    "long": "x > 1 and " * 1000 + "x > 1",
    "long number": "x > " + "9" * 1900,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_no_question_is_refused_when_it_is_read(name: str, tmp_path: Path) -> None:
    """One sentence with the setting, the place and the remedy; nothing of it was run."""
    trap = tmp_path / "sprung"
    source = ATTACKS[name].format(trap=trap) if "{" in ATTACKS[name] else ATTACKS[name]
    with pytest.raises(UserError) as caught:
        Expression(source, "filters.where")
    said = str(caught.value)
    assert said.startswith("filters.where: ") and " at column " in said and "\n" not in said and len(said) < 400
    assert not trap.exists()


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("similarity ** 2 > 1", "the operator Pow is not known at column 1 (`similarity ** 2 > 1`)"),
        ("a > 1 and  b.c > 1", "Attribute is not known at column 12 (`b.c > 1`)"),
        ("'\u00e4\u00f6\u00fc' == a and b.c > 1", "Attribute is not known at column 16 (`b.c > 1`)"),
        ("  a = 1", "at column 5 (`= 1`)"),
        ("a > 1 and\n f(a)", "Call is not known at column 12 (`f(a)`)"),
    ],
)
def test_the_first_mistake_is_pointed_at(source: str, place: str) -> None:
    with pytest.raises(UserError) as caught:
        Expression(source, "filters.where")
    assert place in str(caught.value)


def test_nothing_in_the_module_could_run_it() -> None:
    """No eval, exec or compile is called by the interpreter; this is read from its own source."""
    tree = ast.parse(Path(expression.__file__).read_text())
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert called and not called & {"eval", "exec", "compile", "__import__"}


def test_the_longest_that_is_read() -> None:
    filler = "x > 1" + " " * (MOST_CHARS - 10) + "and y"
    assert len(filler) == MOST_CHARS and why(filler, x=2, y=True) is None
    with pytest.raises(UserError, match="2001 characters"):
        Expression(filler + "y", "filters.where")
