"""Pieces of HTML that several sections are made of. Whatever comes from data is escaped here or where it is put in."""

from collections.abc import Iterable, Sequence
from html import escape


def section(name: str, title: str, body: str, intro: str = "") -> str:
    """A section with its heading; nothing where there is nothing to show."""
    if not body:
        return ""
    lead = f'<p class="intro">{intro}</p>' if intro else ""
    return f'<section id="{name}"><h2>{escape(title)}</h2>{lead}{body}</section>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """A table of ready cells; the first column names the row."""
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def image(source: str, alt: str, side: int = 96) -> str:
    """A picture; `alt` says what it shows, or is empty where the text beside it does."""
    return f'<img src="{source}" alt="{escape(alt)}" width="{side}" height="{side}" loading="lazy">'


def fold(title: str, body: str) -> str:
    """Something long, closed until it is asked for."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def short(text: str, most: int = 120) -> str:
    """Escaped text of at most `most` characters."""
    return escape(text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}")
