"""An expression on a row's columns -> holds, or why not: `similarity > 0.3 and nsfw != 'NSFW'`.

Python's parser makes the tree, `_Builder` turns it into steps of an own interpreter. Only what it names is known: a
call, an attribute, a power or arithmetic on text is refused when the recipe is read, so a recipe from anywhere is
safe to load. Nothing is evaluated or executed as Python.

- `name` is a column; `column['odd name']` is one whose name Python would not take.
- Null, NaN and an empty csv cell beside a number are *unknown*, as in SQL: comparing one is unknown, `not unknown`
  stays unknown, and a row whose answer is unknown is rejected. `x is None or x > 3` keeps rows without x.
- Text that meets a number is read as a number (csv knows only text). Two texts that both look like numbers are
  ordered as numbers, but equal only as texts. Texts `true` and `false` meet True and False likewise.
- Values of other types (lists, bytes), and text that is no number where one is needed, reject the row.
"""

import ast
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from configs.errors import UserError
from data_pipeline.ingest.filters.values import BadValue, Null, as_bool, as_number, bounded, compare, plain, shown

MOST_CHARS = 2000
MOST_DEPTH = 60
GRAMMAR = (
    "use column names, numbers, 'text', True, False, == != < <= > >=, in ('a', 'b'), is None, and, or, not, + - * / %"
)
_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_SIGNS: dict[type, Callable[[Any], Any]] = {ast.Not: operator.not_, ast.USub: operator.neg, ast.UAdd: operator.pos}
_COMPARISONS: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
Step = Callable[[Mapping[str, Any]], Any]
"""Values of a row -> bool, int, float, str or Null. Raises BadValue."""


class Expression:
    """A checked expression. `key` is the setting that it stands in, for sentences.

    Raises:
        UserError: it is not one; the sentence names the column of the first mistake.
    """

    def __init__(self, source: str, key: str):
        self.source, self.key = source, key
        builder = _Builder(source, key)
        self._holds = builder.logic(builder.tree, 0)
        self.names = frozenset(builder.names)

    def __reduce__(self) -> tuple[type["Expression"], tuple[str, str]]:
        return Expression, (self.source, self.key)  # steps are closures, which do not travel

    def problem(self, values: Mapping[str, Any]) -> str | None:
        """None where the expression holds for a row's values; else why not, the same words for the same values."""
        try:
            answer = self._holds(values)
        except BadValue as error:
            return str(error)
        if isinstance(answer, Null):
            return f"{answer.why} is null"
        return None if answer else ", ".join(f"{name}={shown(values.get(name))}" for name in sorted(self.names))


def names(source: str, key: str = "filters.where") -> frozenset[str]:
    """The columns that an expression asks for."""
    return Expression(source, key).names


class _Builder:
    """Tree -> steps. Each method of an `ast` name knows one kind of node; a kind without a method is refused."""

    def __init__(self, source: str, key: str):
        self.key, self.names = key, set[str]()
        spaced = re.sub(r"[\r\n\t\f\v]", " ", source)  # one line: places in it are columns
        self.text, self.indent = spaced.strip(), len(spaced) - len(spaced.lstrip())
        if len(source) > MOST_CHARS:
            self.refuse(0, f"{len(source)} characters", f"at most {MOST_CHARS} are read; put it into a predicate")
        if "#" in source and "\n" in source.strip():
            self.refuse(self.text.index("#"), "a # and line breaks", "put it on one line, or a part becomes a comment")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # about doubtful literals, such as '\d' and 1if
                self.tree = ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            self.refuse(max((error.offset or 1) - 1, 0), error.msg or "no expression", GRAMMAR)
        except (RecursionError, MemoryError, ValueError, SystemError) as error:
            # SystemError: CPython 3.11 loses count of a deep tree's levels now and then (python/cpython#106905).
            self.refuse(0, f"it cannot be read ({type(error).__name__})", GRAMMAR)

    def refuse(self, place: int | ast.AST, what: str, remedy: str) -> NoReturn:
        start = place if isinstance(place, int) else self._span(place)[0]
        piece = self.text[start : start + 40].strip()
        where = f"column {start + self.indent + 1}" + (f" (`{piece}`)" if piece else "")
        raise UserError(f"{self.key}: {what} at {where}: {remedy}")

    def _span(self, node: ast.AST) -> tuple[int, int]:
        """Where a node stands in `text`; Python counts bytes of UTF-8."""
        raw = self.text.encode()
        start, stop = (len(raw[:at].decode()) for at in (node.col_offset, node.end_col_offset))  # type: ignore[attr-defined]
        return start, stop

    def said(self, node: ast.AST) -> str:
        """A node as it was written, for a row's reason."""
        start, stop = self._span(node)
        text = self.text[start:stop]
        return text if len(text) <= 40 else text[:37] + "..."

    def build(self, node: ast.AST, depth: int) -> Step:
        if depth > MOST_DEPTH:
            self.refuse(node, f"more than {MOST_DEPTH} parts inside each other", "write it flatter")
        method = getattr(self, f"_{type(node).__name__}", None)
        if method is None:
            self.refuse(node, f"{type(node).__name__} is not known", GRAMMAR)
        return method(node, depth + 1)

    def logic(self, node: ast.AST, depth: int) -> Step:
        """A part that must say yes or no."""
        step, said = self.build(node, depth), self.said(node)
        sign = isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Not)
        literal = isinstance(node, ast.Constant) and not isinstance(node.value, bool)
        if isinstance(node, ast.BinOp) or sign or literal:
            self.refuse(node, "a value stands where yes or no is asked", "compare it, for example with > 0")
        if isinstance(node, ast.Name | ast.Subscript):
            return lambda values: as_bool(step(values), said)
        return step

    def number(self, node: ast.AST, depth: int) -> Step:
        """A part that must be a number."""
        if isinstance(node, ast.Constant) and type(node.value) not in (int, float):
            self.refuse(node, "arithmetic is for numbers", "compare texts, or use a predicate")
        step, said = self.value(node, depth), self.said(node)
        return lambda values: as_number(step(values), said)

    def value(self, node: ast.AST, depth: int) -> Step:
        """A part that is compared or reckoned with."""
        if isinstance(node, ast.Compare | ast.BoolOp) or (
            isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
        ):
            self.refuse(node, "an answer is used as a value", "join answers with and, or, not")
        return self.build(node, depth)

    def _Constant(self, node: ast.Constant, depth: int) -> Step:
        given = node.value
        if given is None:
            self.refuse(node, "None stands as a value", "ask `is None` or `is not None`")
        if not isinstance(given, bool | int | float | str):
            self.refuse(node, f"{type(given).__name__} is not known", GRAMMAR)
        try:
            kept = bounded(given) if type(given) is int else given
        except OverflowError:
            self.refuse(node, "too large a number", "write a smaller one")
        return lambda values: kept

    def _Name(self, node: ast.Name, depth: int) -> Step:
        return self._column(node.id)

    def _Subscript(self, node: ast.Subscript, depth: int) -> Step:
        inside = node.slice
        named = isinstance(node.value, ast.Name) and node.value.id == "column"
        if not named or not isinstance(inside, ast.Constant) or not isinstance(inside.value, str):
            self.refuse(node, "[ ] is not known", "write column['odd name'] for a column's name")
        return self._column(inside.value)

    def _column(self, name: str) -> Step:
        self.names.add(name)
        return lambda values: plain(name, values.get(name))

    def _BoolOp(self, node: ast.BoolOp, depth: int) -> Step:
        steps = [self.logic(part, depth) for part in node.values]
        return lambda values: _joined((step(values) for step in steps), isinstance(node.op, ast.Or))

    def _UnaryOp(self, node: ast.UnaryOp, depth: int) -> Step:
        if isinstance(node.op, ast.Invert):
            self.refuse(node, "~ is not known", "write not")
        work = _SIGNS[type(node.op)]
        inner = (self.logic if isinstance(node.op, ast.Not) else self.number)(node.operand, depth)

        def worked(values: Mapping[str, Any]) -> Any:
            value = inner(values)
            return value if isinstance(value, Null) else work(value)

        return worked

    def _BinOp(self, node: ast.BinOp, depth: int) -> Step:
        work = _ARITHMETIC.get(type(node.op))
        if work is None:
            self.refuse(node, f"the operator {type(node.op).__name__} is not known", GRAMMAR)
        left, right, said = self.number(node.left, depth), self.number(node.right, depth), self.said(node)

        def worked(values: Mapping[str, Any]) -> Any:
            a, b = left(values), right(values)
            if isinstance(a, Null) or isinstance(b, Null):
                return a if isinstance(a, Null) else b
            try:
                result = work(a, b)
            except ZeroDivisionError:
                raise BadValue(f"{said} divides by zero") from None
            return Null(said) if result != result else bounded(result)

        return worked

    def _Compare(self, node: ast.Compare, depth: int) -> Step:
        op = node.ops[0]
        if isinstance(op, ast.Is | ast.IsNot | ast.In | ast.NotIn):
            if len(node.ops) > 1:
                self.refuse(node, "`is` and `in` stand in a chain", "join comparisons with and")
            ask = self._is if isinstance(op, ast.Is | ast.IsNot) else self._in
            return ask(self.value(node.left, depth), node, isinstance(op, ast.Is | ast.In), depth)
        before, step = node.left, self.value(node.left, depth)
        links = []
        for op, right in zip(node.ops, node.comparators, strict=True):
            if type(op) not in _COMPARISONS:
                self.refuse(right, "`is` and `in` stand in a chain", "join comparisons with and")
            links.append((_COMPARISONS[type(op)], self.value(right, depth), self.said(before), self.said(right)))
            before = right

        def answers(values: Mapping[str, Any]) -> Any:
            left = step(values)
            for work, of_right, said_left, said_right in links:
                right = of_right(values)
                yield compare(work, left, right, said_left, said_right)
                left = right

        return lambda values: _joined(answers(values), False)

    def _is(self, left: Step, node: ast.Compare, wanted: bool, depth: int) -> Step:
        right = node.comparators[0]
        if not isinstance(right, ast.Constant) or right.value is not None:
            self.refuse(right, "`is` stands before something else than None", "write == or !=")
        return lambda values: isinstance(left(values), Null) is wanted

    def _in(self, left: Step, node: ast.Compare, wanted: bool, depth: int) -> Step:
        right, said = node.comparators[0], self.said(node.left)
        if not isinstance(right, ast.Tuple | ast.List) or not right.elts:
            self.refuse(right, "`in` asks for a list of values", "write for example in ('a', 'b')")
        for item in right.elts:
            inside = item.operand if isinstance(item, ast.UnaryOp) else item
            if not isinstance(inside, ast.Constant):
                self.refuse(item, "a list holds more than values", "write columns outside of it")
        items = [self.value(item, depth)({}) for item in right.elts]

        def among(values: Mapping[str, Any]) -> Any:
            value = left(values)
            found = _joined((compare(operator.eq, value, item, said, said) for item in items), True)
            return found if isinstance(found, Null) else found is wanted

        return among


def _joined(answers: Any, decisive: bool) -> bool | Null:
    """`or` (decisive True) or `and` of answers in three values: the first decisive one, else an unknown one."""
    unknown: Null | None = None
    for answer in answers:
        if answer is decisive:
            return decisive
        if isinstance(answer, Null):
            unknown = unknown or answer
    return unknown or not decisive
