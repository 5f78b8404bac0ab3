"""robots.txt as RFC 9309 reads it: bytes -> the rules for one agent; a path -> allowed or not.

The standard library's parser takes the first rule that fits and knows no wildcards; the RFC wants the longest, with
`*` and `$`. Matching is by parts between stars, from the left, so no rule can make it take long.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from data_pipeline.ingest.fetch.optout import product_token

MAX_BYTES = 512 * 1024
"""What is read of a robots.txt; the RFC asks for 500 KiB at least. The rest is as if it were not there."""

MAX_RULES = 10_000

_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


@dataclass(frozen=True)
class Rule:
    """One allow or disallow line, its path in parts between the stars. `weight` is its length in octets."""

    allow: bool
    parts: tuple[str, ...]
    ends: bool
    weight: int

    def fits(self, path: str) -> bool:
        first, *rest = self.parts
        if not path.startswith(first):
            return False
        at = len(first)
        if not rest:
            return not self.ends or at == len(path)
        last = rest.pop() if self.ends else ""
        for part in rest:
            found = path.find(part, at)
            if found < 0:
                return False
            at = found + len(part)
        return not self.ends or (path.endswith(last) and len(path) - len(last) >= at)


@dataclass(frozen=True)
class Rules:
    """Rules for one agent, the heaviest first (allow before disallow where they weigh the same).

    `starts`: how their paths begin; most pictures begin like none of them, which one comparison finds out.
    """

    rules: tuple[Rule, ...] = ()
    starts: tuple[str, ...] = ()

    def allows(self, path: str) -> bool:
        """`path` is what is asked for: path and query, percent-encoded."""
        path = normal(path)
        if path == "/robots.txt" or not path.startswith(self.starts):
            return True
        return next((rule.allow for rule in self.rules if rule.fits(path)), True)

    @property
    def size(self) -> int:
        """About the bytes that these take in memory."""
        return 500 + sum(500 + 2 * rule.weight for rule in self.rules)


ALLOW_ALL = Rules()


def normal(path: str) -> str:
    """Percent-encoding made alike: upper case, not used for unreserved characters, used for all beyond ASCII."""
    if not path.isascii():
        path = "".join(c if c.isascii() else "".join(f"%{b:02X}" for b in c.encode()) for c in path)
    if "%" not in path:
        return path
    return _ESCAPE.sub(lambda m: c if (c := chr(int(m[1], 16))) in _UNRESERVED else m[0].upper(), path)


def parse(data: bytes, agent: str) -> Rules:
    """The rules of all groups for `agent` (a lower-case product token), or else of all groups for `*`."""
    text = data[:MAX_BYTES].decode("utf-8-sig", errors="replace")
    own: list[Rule] = []
    everybody: list[Rule] = []
    named = False
    for agents, rules in _groups(re.split(r"\r\n|\r|\n", text)):
        if agent in agents:
            named = True
            own += rules
        elif "*" in agents:
            everybody += rules
    chosen = (own if named else everybody)[:MAX_RULES]
    ordered = tuple(sorted(chosen, key=lambda rule: (-rule.weight, not rule.allow)))
    return Rules(ordered, tuple({rule.parts[0] for rule in ordered}))


def _groups(lines: Iterable[str]) -> Iterator[tuple[set[str], list[Rule]]]:
    """Runs of user-agent lines with the rules below them. Lines of other kinds do not end a group."""
    agents: set[str] = set()
    rules: list[Rule] = []
    after_rules = False
    for line in lines:
        key, colon, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            if after_rules:
                yield agents, rules
                agents, rules, after_rules = set(), [], False
            agents.add("*" if value.startswith("*") else product_token(value))
        elif key in ("allow", "disallow"):
            after_rules = True
            if agents and value:
                rules.append(_rule(key == "allow", value))
    yield agents, rules


def _rule(allow: bool, value: str) -> Rule:
    pattern = normal(value)
    ends = pattern.endswith("$")
    body = pattern[:-1] if ends else pattern
    if not body.startswith(("/", "*")):
        body = "/" + body
    parts = body.split("*")
    kept = [parts[0], *(part for part in parts[1:-1] if part), *parts[-1:]] if len(parts) > 1 else parts
    return Rule(allow, tuple(kept), ends, len(pattern))
