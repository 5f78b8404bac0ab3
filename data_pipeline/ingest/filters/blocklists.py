"""Files of what is refused -> a question for each row. UTF-8, one entry a line; lines that start with # are comments.

words    a word or phrase: compared as text.py cuts words, so `cat` is not found in `catalogue`, case and width of
         letters do not matter, and unspaced scripts are searched anywhere. A reason names the line, not the words.
domains  example.com refuses its subdomains too; *.example.com, .example.com and example.com are the same entry.
         International names in letters or as xn--; compared in letters.
hashes   SHA-256 of the source's bytes in hex, as `sha256sum` writes it (what follows the hash is not read)

Each list keeps `digest`, the SHA-256 of its file: a list that changed is another build. Files may be remote.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

import numpy as np
import xxhash

from configs.errors import UserError
from data_pipeline.ingest.filters.text import tokens_of
from data_pipeline.storage import read_bytes

MOST_HOST = 253
"""Characters of a domain name (RFC 1035)."""
_HEX = re.compile(rb"[0-9a-fA-F]{64}")
_ANY_BELOW = re.compile(r"^\*?\.")
_NO_HOST = re.compile(r"[\s/:@?#%*\\]|\.\.|^\.|^$")


class _File:
    """Lines of a list that are no comments, with their numbers."""

    def __init__(self, path: str, key: str):
        self.key, self.name = key, os.path.basename(path.rstrip("/"))
        try:
            data = read_bytes(path)
        except OSError as error:
            raise UserError(
                f"{key} {path} cannot be read ({type(error).__name__}): give a text file with an entry a line"
            ) from None
        self.digest = hashlib.sha256(data).hexdigest()
        self.data = data.removeprefix(b"\xef\xbb\xbf")

    def lines(self) -> Iterator[tuple[int, bytes]]:
        start, number = 0, 0
        while start < len(self.data):  # no list of all lines: there may be millions
            stop = self.data.find(b"\n", start)
            stop = len(self.data) if stop < 0 else stop
            line, number = self.data[start:stop].strip(), number + 1
            start = stop + 1
            if line and not line.startswith(b"#"):
                yield number, line

    def texts(self) -> Iterator[tuple[int, str]]:
        for number, line in self.lines():
            try:
                yield number, line.decode()
            except UnicodeDecodeError:
                raise self.wrong(number, "is not UTF-8", "save the file as UTF-8") from None

    def wrong(self, number: int, what: str, remedy: str) -> UserError:
        return UserError(f"{self.key} {self.name} line {number} {what}: {remedy}")


class _Fixed:
    """A set of byte strings of one width, sorted in one array: a million SHA-256 in 32 MB."""

    def __init__(self, joined: bytearray, width: int):
        self.rows = np.sort(np.frombuffer(bytes(joined), dtype=f"S{width}"))

    def __contains__(self, key: bytes) -> bool:
        wanted = np.array([key], dtype=self.rows.dtype)  # numpy drops zeros at the end of single items, not of arrays
        place = int(np.searchsorted(self.rows, wanted)[0])
        return place < len(self.rows) and bool((self.rows[place : place + 1] == wanted)[0])


class Words:
    """Words and phrases. A lookup costs a step per word of the text, whatever the length of the list."""

    def __init__(self, path: str, key: str):
        file = _File(path, key)
        self.name, self.digest = file.name, file.digest
        self.phrases: dict[tuple[str, ...], int] = {}
        self.lengths: dict[str, tuple[int, ...]] = {}
        for number, line in file.texts():
            phrase = tuple(tokens_of(line))
            if not phrase:
                raise file.wrong(number, "holds no word", "write a word, or remove the line")
            self.phrases.setdefault(phrase, number)
            if len(phrase) not in (known := self.lengths.get(phrase[0], ())):
                self.lengths[phrase[0]] = tuple(sorted((*known, len(phrase))))

    def found(self, text: str) -> str | None:
        """Where the first entry that the text holds stands."""
        tokens = tokens_of(text)
        for place, token in enumerate(tokens):
            for length in self.lengths.get(token, ()):
                line = self.phrases.get(tuple(tokens[place : place + length]))
                if line is not None:
                    return f"{self.name} line {line}"
        return None


class Domains:
    """Domain names, kept as 16-byte hashes: an adult list has millions."""

    def __init__(self, path: str, key: str):
        file = _File(path, key)
        self.digest, joined = file.digest, bytearray()
        for number, line in file.texts():
            entry = _ANY_BELOW.sub("", line).rstrip(".")
            if _NO_HOST.search(entry) or len(entry) > MOST_HOST:
                raise file.wrong(number, f"is no domain ({line[:60]!r})", "write example.com, without http:// and path")
            joined += _hash(plain_host(entry))
        self.hashes = _Fixed(joined, 16)

    def found(self, url: str) -> str | None:
        """The entry that a URL's host falls under."""
        host = host_of(url)
        while host:
            if _hash(host) in self.hashes:
                return host
            host = host.partition(".")[2]
        return None


class Hashes:
    """SHA-256 of pictures that are refused."""

    def __init__(self, path: str, key: str):
        file = _File(path, key)
        self.digest, joined = file.digest, bytearray()
        for number, line in file.lines():
            digest = line.split(None, 1)[0]
            if not _HEX.fullmatch(digest):
                said = digest[:70].decode("ascii", "backslashreplace")
                raise file.wrong(number, f"is no SHA-256 ({said!r})", "write 64 hex digits, as sha256sum does")
            joined += bytes.fromhex(digest.decode())
        self.hashes = _Fixed(joined, 32)

    def __contains__(self, sha256: bytes) -> bool:
        return sha256 in self.hashes


def _hash(host: str) -> bytes:
    return xxhash.xxh3_128_digest(host.encode("utf-8", "surrogatepass"))


def plain_host(host: str) -> str:
    """One spelling of a domain name: in letters (no xn--), lower case, NFKC, one kind of dot.

    Not casefold: it makes strasse of a sharp s, which is another domain since IDNA 2008.
    """
    if host.isascii() and "xn--" not in host.lower():
        return host.lower()
    host = unicodedata.normalize("NFKC", host).replace("\u3002", ".").lower()
    labels = [_letters(label) if label.startswith("xn--") else label for label in host.split(".")]
    return unicodedata.normalize("NFKC", ".".join(labels))


def _letters(label: str) -> str:
    try:
        return label[4:].encode("ascii").decode("punycode").lower()
    except (UnicodeError, OverflowError, ValueError):
        return label  # no punycode after all: compared as it is


def host_of(url: str) -> str:
    """Host of a http(s) URL in plain spelling, empty where there is none. A backslash is a slash, as in browsers."""
    try:
        parts = urlsplit(url.replace("\\", "/"))
        host = parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:
        return ""
    host = unquote(host or "").rstrip(".\u3002")
    return plain_host(host) if len(host) <= MOST_HOST else ""
