"""A JSON file of any length, item by item: only the value that is being read is in memory, and it has a limit.

Standard library's parser on a buffer that is refilled: an incremental parser that builds a name of every open list
(`item.item.item...`) needs memory quadratic in the depth of a hostile file.
"""

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

CHUNK = 2**16
MOST_CHARS = 16 * 2**20
"""Of one value: a row, not a list of rows."""


class BadJson(ValueError):
    """The file is not what it should be. Says what and about where."""


class JsonStream:
    """Reads values from the start of a stream of UTF-8.

    Args:
        most: characters of one value.
    """

    def __init__(self, stream: BinaryIO, most: int = MOST_CHARS):
        self.stream, self.most = stream, most
        self.buffer, self.at, self.before, self.ended = "", 0, 0, False
        self._bytes = codecs.getincrementaldecoder("utf-8-sig")()
        self._values = json.JSONDecoder()

    def _fill(self, wanted: int) -> None:
        """Read about `wanted` more bytes behind what is not used yet."""
        data = self.stream.read(wanted)
        try:
            text = self._bytes.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise BadJson(f"it is not UTF-8 near character {self.place()} ({error.reason})") from None
        self.before += self.at
        self.buffer, self.at, self.ended = self.buffer[self.at :] + text, 0, not data

    def place(self) -> int:
        """Characters that were read."""
        return self.before + self.at

    def peek(self) -> str:
        """The next character that is no space, without taking it; empty at the end."""
        while True:
            while self.at < len(self.buffer):
                if self.buffer[self.at] not in " \t\r\n":
                    return self.buffer[self.at]
                self.at += 1
            if self.ended:
                return ""
            self._fill(CHUNK)

    def take(self, wanted: str) -> None:
        if self.peek() != wanted:
            raise BadJson(f"{wanted!r} is missing at character {self.place()}")
        self.at += 1

    def value(self) -> Any:
        """The next value, whole. Raises BadJson: it is none, or longer than the limit."""
        self.peek()
        while True:
            try:
                value, end = self._values.raw_decode(self.buffer, self.at)
                # A number at the end of the buffer may go on.
                if end < len(self.buffer) or self.ended:
                    self.at = end
                    return value
            except RecursionError:
                raise BadJson(f"the value at character {self.place()} is nested too deeply") from None
            except ValueError as error:
                if self.ended:
                    raise BadJson(f"the value at character {self.place()} is broken or cut ({_short(error)})") from None
            if len(self.buffer) - self.at > self.most:
                raise BadJson(
                    f"the value at character {self.place()} is broken, or longer than {self.most:,} characters"
                )
            self._fill(max(CHUNK, len(self.buffer) - self.at))

    def items(self) -> Iterator[Any]:
        """The values of a list."""
        self.take("[")
        if self.peek() == "]":
            self.at += 1
            return
        while True:
            yield self.value()
            if self.peek() != ",":
                break
            self.at += 1
        self.take("]")

    def names(self) -> Iterator[str]:
        """The names of an object; whoever asks for the next one has taken the value of the last."""
        self.take("{")
        if self.peek() == "}":
            self.at += 1
            return
        while True:
            if self.peek() != '"':
                raise BadJson(f"a name is missing at character {self.place()}")
            name = self.value()
            self.take(":")
            yield name
            if self.peek() != ",":
                break
            self.at += 1
        self.take("}")

    def skip(self) -> None:
        """Pass over the next value, however long where it is a list or an object of short values."""
        opening = self.peek()
        if opening == "[":
            for _ in self.items():
                pass
        elif opening == "{":
            for _ in self.names():
                self.value()
        else:
            self.value()

    def end(self) -> None:
        if self.peek():
            raise BadJson(f"something follows the end at character {self.place()}")


def _short(error: ValueError) -> str:
    return str(error).split(":")[0][:80]
