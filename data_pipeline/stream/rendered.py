"""Parts -> tokens as one string, for templates whose marks are text: the ids of Hugging Face's own processors.

The string is encoded once, with special tokens parsed, so that a word may join a mark's last letter as it does there. A
token is learned that shares a character with what is learned. A content that spells a special token would be taken for
one: it is encoded apart, as text.
"""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from configs.data import TemplateConfig
from configs.errors import UserError
from data_pipeline.stream.turns import Part

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONTROL = re.compile(r"</?[^<>\s]+>")
"""What looks like a special token in a template must be one: spelled out letter by letter it would be noise."""
Tokens = tuple[list[int], list[bool], list[int]]
"""(ids, learned, places of pictures)."""


class Rendered:
    """Encodes parts with a tokenizer file.

    Raises:
        UserError: the tokenizer lacks a special token of the template.
    """

    def __init__(self, path: str, folder: str, template: TemplateConfig):
        from tokenizers import Tokenizer

        self.parsing, self.plain = Tokenizer.from_file(path), Tokenizer.from_file(path)
        self.plain.encode_special_tokens = True
        for tokenizer in (self.parsing, self.plain):
            tokenizer.post_processor = None  # adds tokens and trims spaces off offsets; the template has what it adds
        written = {mark for text in template.texts for mark in CONTROL.findall(text)} | {template.image, template.pad}
        missing = sorted(mark for mark in written if len(self._ids(mark)) != 1)
        if missing:
            raise UserError(
                f"the tokenizer in {folder} has no token {', '.join(missing)}: map data.template to tokens that it has, or add them "
                f"(`looksay data tokenizer {folder} --out OUT --mark TOKEN`)"
            )
        self.template, self.image_id = template, self._ids(template.image)[0]
        added = self.parsing.get_added_tokens_decoder()
        names = {token.content for token in added.values() if token.special} | {template.image}
        self.special_ids = frozenset(self._ids(mark)[0] for mark in written) | {
            number
            for number, token in added.items()
            if token.special and any(token.content in t for t in template.texts)
        }
        self._spelled = re.compile("|".join(sorted(map(re.escape, names), key=len, reverse=True)))
        self._bos_apart = len(self._ids(template.bos)) == 1
        said = [Part("mark", template.assistant), Part("content", "x")]
        end = self.encode([*said, Part("mark", template.end)])[0]
        self.end_id = end[-1]
        self._end_head = self.parsing.decode(end[len(self.encode(said)[0]) : -1])

    def _ids(self, text: str) -> list[int]:
        return list(self.parsing.encode(text, add_special_tokens=False).ids)

    def encode(self, parts: Sequence[Part]) -> Tokens:
        """(ids, learned, places of pictures) of a sample.

        Raises:
            ValueError: a content spells the image token in a way that the tokenizer cannot keep as text.
        """
        ids: list[int] = []
        labels: list[bool] = []
        slots: list[int] = []
        for chunk, tokenizer in self._chunks(_with_spaces(parts)):
            text = "".join(part.text for part in chunk)
            encoding = tokenizer.encode(text, add_special_tokens=False)
            learned, pictures = _spans(chunk)
            number = np.array(encoding.ids, np.int64)
            starts, ends = np.array(encoding.offsets, np.int64).reshape(-1, 2).T
            own = np.flatnonzero((number == self.image_id) & np.isin(starts, pictures))
            if len(own) != len(pictures) or (number == self.image_id).sum() != len(pictures):
                raise ValueError(f"a text spells the picture's token {self.template.image}")
            slots += (own + len(ids)).tolist()
            ids += encoding.ids
            # A token of no width is a space that the tokenizer puts before the character where it stands.
            labels += (learned[np.maximum(ends, starts + 1)] > learned[starts]).tolist()
        return ids, labels, slots

    def _chunks(self, parts: Sequence[Part]) -> Iterator[tuple[list[Part], "Tokenizer"]]:
        """Runs of parts that are encoded together, each with its tokenizer."""
        run: list[Part] = []
        if parts and self._bos_apart and parts[0] == Part("mark", self.template.bos):
            # Tokenizers put `bos` before what they encode: the text behind it is the start of a string.
            yield [parts[0]], self.parsing
            parts = parts[1:]
        for part in parts:
            if part.kind == "content" and self._spelled.search(part.text):
                if run:
                    yield run, self.parsing
                yield [part], self.plain
                run = []
            else:
                run.append(part)
        if run:
            yield run, self.parsing

    def prompt(self, parts: Sequence[Part]) -> Tokens:
        """The same for what stands before an answer: spaces that end a mark are the answer's."""
        if parts and parts[-1].kind == "mark":
            kept = parts[-1].text.rstrip(" ")
            parts = [*parts[:-1], *([Part("mark", kept)] if kept else [])]
        return self.encode(parts)

    def continuation(self, before: Sequence[Part], text: str) -> list[int]:
        """Ids of `text` and the end mark behind a prompt that ends with `before`."""
        ids, labels, _ = self.encode([*before, Part("content", text, True), Part("mark", self.template.end, True)])
        return [number for number, learned in zip(ids, labels, strict=True) if learned]

    def said(self, text: str) -> str:
        """Decoded text of an answer without what belongs to its marks."""
        text = text.removesuffix(self._end_head) if self._end_head else text
        return text.removeprefix(" ") if self.template.assistant.endswith(" ") else text


def _with_spaces(parts: Sequence[Part]) -> list[Part]:
    """Spaces that end a mark before what is learned are learned too: ` red` is one token, and the prompt has no space."""
    out: list[Part] = []
    for part in parts:
        if part.learned and out and out[-1].kind == "mark" and not out[-1].learned:
            kept = out[-1].text.rstrip(" ")
            spaces = out.pop().text[len(kept) :]
            out += [p for p in (Part("mark", kept), Part("mark", spaces, True)) if p.text]
        if part.text:
            out.append(part)
    return out


def _spans(parts: Sequence[Part]) -> tuple[NDArray[np.int64], list[int]]:
    """(learned characters before each character [n + 1], where pictures start)."""
    lengths = [len(part.text) for part in parts]
    learned = np.repeat([part.learned for part in parts], lengths)
    starts = np.cumsum([0, *lengths])
    pictures = [int(start) for part, start in zip(parts, starts, strict=False) if part.kind == "image"]
    return np.concatenate([[0], np.cumsum(learned), [learned.sum()]]), pictures
