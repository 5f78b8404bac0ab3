"""X-Robots-Tag header lines -> the directive that keeps a picture out, if there is one.

    X-Robots-Tag: noai, unavailable_after: 25 Jun 2030 15:00:00 PST
    X-Robots-Tag: otherbot: noindex, nofollow

A line holds directives after commas. A word with a colon before a directive is the agent that the rest of the line is
for, unless the word is a directive that takes a value itself (`unavailable_after: DATE`, `max-snippet: 20`).
"""

import re
from collections.abc import Iterable

_WITH_VALUE = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
_DIRECTIVES = {
    *("all", "none", "noindex", "nofollow", "nosnippet", "noarchive", "nocache", "notranslate", "noimageindex"),
    *("indexifembedded", "nositelinkssearchbox", "noodp", "noydir", "noai", "noimageai", "noml"),
}
_AGENT = re.compile(r"[a-z*][\w.*-]*(/[\w.-]+)?", re.IGNORECASE)
_PRODUCT = re.compile(r"[A-Za-z_-]+")
_COMPATIBLE = re.compile(r"compatible;\s*([A-Za-z_-]+)", re.IGNORECASE)


def product_token(user_agent: str) -> str:
    """The name by which sites address this agent, lower case: `looksay` of `looksay/0.1 (+https://...)`.

    Of `Mozilla/5.0 (compatible; Name/1.0)` it is `name`.
    """
    found = _COMPATIBLE.search(user_agent)
    if found:
        return found[1].lower()
    first = _PRODUCT.match(user_agent.strip())
    return first[0].lower() if first else ""


def opted_out(lines: Iterable[str], unwanted: frozenset[str], agent: str) -> str | None:
    """The first of the `unwanted` directives (lower case) that is said to everybody or to `agent` (lower case)."""
    for line in lines:
        concerns_us = True
        for item in line.lower().split(","):
            name, colon, rest = item.partition(":")
            name = name.strip()
            if colon and name in _WITH_VALUE:
                continue
            if colon and name not in unwanted and name not in _DIRECTIVES and _AGENT.fullmatch(name):
                concerns_us = name == "*" or product_token(name) == agent
                words = rest.split(":", 1)[0]
            else:
                words = name
            if concerns_us:
                for word in re.split(r"[\s;]+", words):
                    if word in unwanted:
                        return word
    return None
