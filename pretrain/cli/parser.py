"""argparse that answers a wrong word with the nearest right one, and the options that verbs share."""

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from configs.errors import UserError
from configs.listing import nearest

Handler = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """Raises UserError instead of leaving the process; long options cannot be abbreviated."""

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs["allow_abbrev"] = False
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuses unknown options here, where the verb's own options are known."""
        self._check_word(args)
        space, rest = super().parse_known_args(args, namespace)
        for word in rest:
            if word.startswith("-"):
                raise UserError(
                    f"{self.prog} has no option {word.split('=')[0]!r}: {nearest(word.split('=')[0], self.options())}"
                )
        if rest:
            raise UserError(f"{self.prog} does not know what to do with {rest[0]!r}: see `{self.prog} --help`")
        return space, rest

    def options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings if option.startswith("--")]

    def _check_word(self, args: Sequence[str] | None) -> None:
        """An unknown verb gets the nearest one."""
        verbs = next((a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction)), None)
        word = next(iter(args or ()), None)
        if verbs is None or word is None or word in verbs or word in ("-h", "--help", "--version"):
            return
        if word.startswith("-"):
            raise UserError(f"{self.prog} has no option {word!r}: {nearest(word, self.options())}")
        raise UserError(f"{self.prog} has no verb {word!r}: {nearest(word, verbs)}")


def add_verb(groups: Any, name: str, handler: Handler, text: str, examples: Sequence[str]) -> Parser:
    """A verb's parser. `text` is one sentence of what it does; `examples` are whole commands."""
    shown = "".join(f"\n  {example}" for example in examples)
    parser = groups.add_parser(name, help=text, description=text, epilog=f"examples:{shown}")
    parser.set_defaults(handler=handler)
    return parser


def add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a value, for example optim.clip=0.5; repeatable",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, say what would be done, write nothing"
    )


def count(text: str) -> int:
    """An argument that is a whole number above 0."""
    if not re.fullmatch(r"\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def number(text: str) -> int:
    """An argument that is a whole number from 0."""
    if not re.fullmatch(r"\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def ratio(text: str) -> float:
    """An argument above 0 and up to 1."""
    value = positive(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to 1")
    return value


def positive(text: str) -> float:
    """An argument that is a finite number from 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return value
