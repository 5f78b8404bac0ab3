"""How a remote part is written in a recipe or on the command line."""

import re
from dataclasses import dataclass

from configs.errors import UserError

HUB = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[\w./-]{1,200}))?(?::(?P<file>[^:@]{1,400}))?",
    re.ASCII,
)
PACKAGE = re.compile(r"package:([A-Za-z0-9][A-Za-z0-9._-]*)")
URL = re.compile(r"(https?://[^\s#]+)(?:#sha256=([0-9a-f]{64}))?", re.ASCII)
MAIN = "main"


@dataclass(frozen=True)
class Hub:
    """A repository of a hub, or one file of it."""

    repo: str
    revision: str = MAIN
    file: str | None = None

    def __str__(self) -> str:
        at = "" if self.revision == MAIN else f"@{self.revision}"
        return f"{self.repo}{at}{'' if self.file is None else f':{self.file}'}"


@dataclass(frozen=True)
class Url:
    """A file of a web server; `sha256` where its user knows it."""

    url: str
    sha256: str | None = None

    def __str__(self) -> str:
        return self.url if self.sha256 is None else f"{self.url}#sha256={self.sha256}"


@dataclass(frozen=True)
class Package:
    """A wheel of the package index."""

    name: str

    def __str__(self) -> str:
        return f"package:{self.name}"

    @property
    def distribution(self) -> str:
        """Its name as package indexes write it (PEP 503)."""
        return re.sub(r"[-_.]+", "-", self.name).lower()


Part = Hub | Url | Package


def part_of(text: str) -> Part | None:
    """The remote part that a name is; None: it can only be a path."""
    if match := PACKAGE.fullmatch(text):
        return Package(match[1])
    if match := URL.fullmatch(text):
        return Url(match[1], match[2])
    match = HUB.fullmatch(text)
    if match is None or ".." in text:
        return None
    return Hub(match["repo"], match["revision"] or MAIN, match["file"])


def require_part(text: str) -> Part:
    """Raises UserError where a name is that of no remote part."""
    found = part_of(text)
    if found is None:
        raise UserError(
            f"{text!r} is no remote part: write ORG/NAME[@REVISION][:FILE], https://...[#sha256=HEX], package:NAME, or a recipe"
        )
    return found
