"""Packaged recipes by name, their header comments, and the nearest name, without pydantic: answers at once."""

import difflib
from collections.abc import Iterable
from pathlib import Path

RECIPES = Path(__file__).parent / "recipes"
SITES = Path(__file__).parent / "sites"
ENDINGS = (".yaml", ".yml")


def find_recipes() -> dict[str, Path]:
    """Packaged recipes by name."""
    return {path.stem: path for path in sorted(RECIPES.rglob("*.yaml"), key=lambda path: path.stem)}


def find_sites() -> dict[str, Path]:
    """Packaged sites by name."""
    return {path.stem: path for path in sorted(SITES.glob("*.yaml"))}


def header_of(path: Path) -> str:
    """The comment that opens a recipe file: its command, hardware, time and result."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return "\n".join(lines)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest one, else all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1, 0.5)
    return f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(names)}"
