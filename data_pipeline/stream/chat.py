"""Messages -> token ids, labelled tokens, image slots, under any template (configs.data.TemplateConfig).

    caption       bos <image> ... text end                            loss on text and end
    interleaved   bos <image> text end <image> text end               each passage after a picture closes with end
    messages      bos (user content | assistant content end) ...      loss on assistant content and end

Marks in a user's text stay text; only `<image>` (IMAGE_MARK) in a sample's content becomes a picture's slot.
`Encoded.ids` holds one image id per picture; the collator widens it. Where every mark is one token, contents are encoded
apart between them (here); otherwise the sample is encoded as one string (rendered.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.data import TemplateConfig
from configs.errors import UserError
from data_pipeline.parts.cache import tokenizer_folder
from data_pipeline.sample import Conversation, Message
from data_pipeline.stream.geometry import Geometry
from data_pipeline.stream.rendered import Rendered, Tokens
from data_pipeline.stream.row_column import MARKS, marks_up_to
from data_pipeline.stream.turns import Part, prompt_parts, sample_parts


@dataclass(frozen=True)
class Encoded:
    """One sample as tokens, before pictures are widened."""

    ids: NDArray[np.int64]
    """[n] token ids, one image id per picture."""
    labels: NDArray[np.bool_]
    """[n] True where the token is learned."""
    slots: NDArray[np.int64]
    """[k] places of the image ids."""
    picture_marks: NDArray[np.int64] | None = None
    """Ids of the texts between a picture's tiles (row_column.MARKS), -1 where one is no token; None: there are none."""

    @property
    def text_tokens(self) -> int:
        """All tokens but the image marks, which visual tokens replace."""
        return len(self.ids) - len(self.slots)

    @property
    def label_tokens(self) -> int:
        return int(self.labels.sum())

    @property
    def runs(self) -> list[int]:
        """Lengths of runs of text tokens, by turns not learned and learned, the first not learned (it may be 0)."""
        learned = np.delete(self.labels, self.slots)
        turns = np.flatnonzero(np.diff(learned, prepend=False))
        return np.diff([0, *turns, len(learned)]).tolist() if len(learned) else []

    @property
    def last_image(self) -> int:
        """Text tokens before the last picture; 0 where there is none."""
        return int(self.slots[-1]) - (len(self.slots) - 1) if len(self.slots) else 0

    def truncated(self, keep: int) -> "Encoded":
        """The sample with its first `keep` text tokens and all its pictures.

        Raises:
            ValueError: the cut would drop a picture.
        """
        if keep < self.last_image:
            raise ValueError(f"a cut after {keep} text tokens drops a picture that comes after {self.last_image}")
        end = keep + len(self.slots)
        return Encoded(self.ids[:end], self.labels[:end], self.slots, self.picture_marks)


class Chat:
    """A tokenizer folder (tokenizer.json, any Hugging Face one; or its hub id, in the cache) and a template.

    Raises:
        UserError: no tokenizer there, or one without a token that the template needs.
    """

    def __init__(self, folder: str, template: TemplateConfig):
        from tokenizers import Tokenizer

        folder = str(tokenizer_folder(folder))
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise UserError(
                f"data.tokenizer {folder} has no tokenizer.json: train one with `looksay data tokenizer`, or give a Hugging Face tokenizer folder"
            )
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception on a bad file
            raise UserError(f"{path} cannot be read as a tokenizer ({error}): train it again") from None
        self.template, self.folder = template, folder
        self.tokenizer.encode_special_tokens = True  # marks inside a text are text
        found = {text: self.tokenizer.token_to_id(text) for text in (*template.texts, template.image, template.pad)}
        self._marks: dict[str, int] = {text: number for text, number in found.items() if number is not None}
        # Numbers of pictures and spaces that go before one make other texts of marks than those of the template.
        fixed = "{n}" not in template.image_before and not template.tight_images
        whole = fixed and len(self._marks) == len(found)
        self._rendered = None if whole else Rendered(str(path), folder, template)
        self.pad_id, self.image_id = self._marks[template.pad], self._marks[template.image]
        self.end_id = self._marks[template.end] if self._rendered is None else self._rendered.end_id
        self.vocab_size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        self._text = lru_cache(maxsize=65536)(self._encode_text)

    def _encode_text(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _pieces(self, parts: Sequence[Part]) -> Tokens:
        """Each content encoded apart, between marks of one token."""
        ids: list[int] = []
        labels: list[bool] = []
        slots: list[int] = []
        for part in parts:
            if part.kind == "image":
                slots.append(len(ids))
            own: tuple[int, ...] = self._text(part.text) if part.kind == "content" else (self._marks[part.text],)
            ids += own
            labels += [part.learned] * len(own)
        return ids, labels, slots

    def _made(self, tokens: Tokens, pictures: int) -> Encoded:
        ids, labels, slots = tokens
        if len(slots) != pictures:
            raise ValueError(f"{len(slots)} image marks for {pictures} pictures")
        places = np.array(slots, np.int64)
        return Encoded(np.array(ids, np.int64), np.array(labels, bool), places, self.picture_marks)

    def encode(self, conversation: Conversation, pictures: int) -> Encoded:
        """A whole sample with `pictures` pictures.

        Raises:
            ValueError: the number of marks is not that of the pictures, or a text spells the picture's token.
        """
        parts = sample_parts(self.template, conversation, pictures)
        return self._made(self._pieces(parts) if self._rendered is None else self._rendered.encode(parts), pictures)

    def prompt(self, messages: Sequence[Message] | None, pictures: int) -> Encoded:
        """What stands before an answer: messages and the assistant's mark, or (None) a picture to caption.

        Pictures that no message marks come before the first user message's text.
        """
        parts = prompt_parts(self.template, messages, pictures)
        return self._made(self._pieces(parts) if self._rendered is None else self._rendered.prompt(parts), pictures)

    def continuation(self, text: str, caption: bool = False) -> list[int]:
        """What is learned after a prompt of messages, or of a picture (`caption`): the text's ids and the end mark."""
        if self._rendered is None:
            return [*self._text(text), self.end_id]
        if caption:
            return self._rendered.continuation(prompt_parts(self.template, None, 1), text)
        return self._rendered.continuation([Part("mark", self.template.user_end + self.template.assistant)], text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        text = self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)
        return text if self._rendered is None else self._rendered.said(text)

    def token(self, number: int) -> str:
        """One token as text, marks shown by name."""
        if number in self.special_ids:
            return self.tokenizer.id_to_token(int(number)) or ""
        # Behind another token, because decoding strips the space that opens a text.
        before = list(self._text("a"))
        plain = self.tokenizer.decode(before, skip_special_tokens=False)
        return self.tokenizer.decode([*before, int(number)], skip_special_tokens=False)[len(plain) :]

    @cached_property
    def picture_marks(self) -> NDArray[np.int64] | None:
        """Ids of row_column.MARKS, -1 where one is not a single token; None: the tokenizer has no marks of tiles."""
        if self.tokenizer.token_to_id(MARKS[0]) is None:
            return None
        ids = np.array([self._mark_id(mark) for mark in MARKS], np.int64)
        ids.flags.writeable = False  # shared by all samples
        return ids

    def _mark_id(self, mark: str) -> int:
        """Line ends are ordinary text to published tokenizers, and tokens of their own to those trained for a template."""
        number = self.tokenizer.token_to_id(mark)
        if number is None and mark.isspace() and len(self._text(mark)) == 1:
            (number,) = self._text(mark)
        return -1 if number is None else int(number)

    def require_marks(self, geometry: Geometry) -> None:
        """Pictures of this geometry can be written in this tokenizer.

        Raises:
            UserError: a text between their tiles is not one token.
        """
        if geometry.mode != "row_column":
            return
        ids, needed = self.picture_marks, marks_up_to(-(-geometry.longest // geometry.size))
        missing = [mark for mark in needed if ids is None or ids[MARKS.index(mark)] < 0]
        if missing:
            shown = ", ".join(repr(mark) for mark in missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise UserError(
                f"the tokenizer in {self.folder} has no single token for {shown}, which model.resolution row_column puts "
                f"between tiles: add them, or use another resolution"
            )

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens of the template's marks."""
        return frozenset(self._marks.values()) if self._rendered is None else self._rendered.special_ids
