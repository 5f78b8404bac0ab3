"""A URL as it stands in somebody's data -> the one that is asked for, or `Failed`.

Credentials and fragment are dropped. Numeric hosts in any form that a C library takes for an address (decimal, octal,
hexadecimal, short: 2130706433, 0177.0.0.1, 0x7f.1) are written out first, so that the guard sees what they are.
"""

import re
import socket
import urllib.parse
from collections.abc import Callable

from yarl import URL

from data_pipeline.ingest.fetch.failure import Failed
from data_pipeline.ingest.fetch.guard import private

MAX_LENGTH = 8192

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.-])?", re.IGNORECASE)
_PARTS = re.compile(r"[a-z]+://([^/?#]*)(/[^?#]*)?(\?[^#]*)?", re.IGNORECASE)
_FOREIGN = re.compile(r"""[^!-~]|["<>\\^`{|}]""")
_NUMERIC = re.compile(r"[0-9][0-9a-fx.]*", re.IGNORECASE)


def scheme_of(path: str) -> str:
    """Lower case; empty for a plain path."""
    found = _SCHEME.match(path.lstrip())
    return found[1].lower() if found else ""


def parse_url(text: str, may_connect: Callable[[str], bool], base: URL | None = None) -> URL:
    """The URL to ask for; `base` is where a redirect came from.

    Path and query are asked for as they are written, but for characters that may not be in a URL: some servers sign
    the text of their links, and `%2F` is not `/` to all of them.

    Raises:
        Failed: bad_url, scheme, or private_address where the host is an address already.
    """
    text = text.strip()
    scheme = scheme_of(text) or (base.scheme if base else "")
    if scheme not in ("http", "https"):
        raise Failed("scheme", f"{scheme or 'no scheme'}: only http and https are fetched")
    if len(text) > MAX_LENGTH:
        raise Failed("bad_url", f"longer than {MAX_LENGTH} characters")
    try:
        if base is not None:
            text = urllib.parse.urljoin(str(base), text)
        found = _PARTS.match(text)
        if not found:
            raise ValueError
        origin = URL(f"{scheme}://{found[1].rpartition('@')[2]}")  # makes ASCII of a name, checks the port
        origin = _checked(origin, origin.raw_host or "", may_connect)
        path, query = found[2] or "/", found[3] or ""
        if "/." in path:
            path = urllib.parse.urljoin("http://x/", path).removeprefix("http://x")
        return URL(f"{origin.scheme}://{origin.raw_authority}{_FOREIGN.sub(_escaped, path + query)}", encoded=True)
    except ValueError:  # UnicodeError of the host's encoding too
        raise Failed("bad_url", "not a URL") from None


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogateescape"))


def _checked(url: URL, host: str, may_connect: Callable[[str], bool]) -> URL:
    if ":" not in host:
        if not _NAME.fullmatch(host):
            raise ValueError
        plain = _written_out(host)
        if plain is None:
            return url
        if plain != host:
            url, host = url.with_host(plain), plain
    if not may_connect(host.replace("%25", "%")):
        raise private(host, host)
    return url


def _written_out(host: str) -> str | None:
    """Dotted decimal of a host that is a number in some form; None for a name."""
    host = host.rstrip(".")
    if not _NUMERIC.fullmatch(host):
        return None
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None
