"""Words for sbatch's directives and for the shell: whatever is in a value stays one word."""

import re
import shlex
from collections.abc import Sequence

from configs.errors import UserError

TASK = re.compile(r"\{task(?::0([1-9]\d?))?\}")
PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


def directive(option: str, value: str | None = None) -> str:
    """A line `#SBATCH --option=value`.

    sbatch reads these lines itself: blanks end a word unless quotes are around, and a backslash takes the next character as
    it is, but a blank only between quotes.

    >>> directive("partition", "gpu"), directive("exclusive")
    ('#SBATCH --partition=gpu', '#SBATCH --exclusive')
    >>> print(directive("comment", 'say "$(x)" \\ #1'))
    #SBATCH --comment="say \\"$(x)\\" \\\\ #1"

    Raises:
        UserError: the value has a line break.
    """
    if value is None:
        return f"#SBATCH --{option}"
    if any(ord(letter) < 32 for letter in value):
        raise UserError(f"{value!r} has a line break or control character, which --{option} of sbatch cannot take")
    if not PLAIN.fullmatch(value):
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"#SBATCH --{option}={value}"


def shell_word(word: str) -> str:
    """A word of a command; `{task}` becomes the number of the array's task.

    >>> shell_word("a b"), shell_word("part-{task:05}.tar")
    ("'a b'", 'part-"$(printf %05d "$SLURM_ARRAY_TASK_ID")".tar')
    """
    out, end = "", 0
    for found in TASK.finditer(word):
        out += shlex.quote(word[end : found.start()]) if found.start() > end else ""
        number = f'"$(printf %0{found[1]}d "$SLURM_ARRAY_TASK_ID")"' if found[1] else '"$SLURM_ARRAY_TASK_ID"'
        out, end = out + number, found.end()
    rest = word[end:]
    return out + (shlex.quote(rest) if rest or not out else "")


def shell_line(words: Sequence[str]) -> str:
    """A command of words."""
    return " ".join(shell_word(word) for word in words)


def as_comment(text: str) -> list[str]:
    """Text as comment lines: no line of it can become a command.

    >>> as_comment("one\\ntwo")
    ['# one', '# two']
    """
    return [f"# {line}" for line in re.split(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+", text)]
