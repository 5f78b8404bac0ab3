"""Messages -> token ids, labelled tokens, image slots. The template's marks are single special tokens.

    caption       bos <image> ... text end                            loss on text and end
    interleaved   bos <image> text end <image> text end               each passage after a picture closes with end
    messages      bos (user content | assistant content end) ...      loss on assistant content and end

Marks in a user's text stay text: pieces are encoded with special tokens off; only `<image>` (IMAGE_MARK) in a sample's
content becomes a picture's slot. `Encoded.ids` holds one image id per picture; the collator widens it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.data import TemplateConfig
from configs.errors import UserError
from data_pipeline.sample import IMAGE_MARK, Conversation, Message


@dataclass(frozen=True)
class Encoded:
    """One sample as tokens, before pictures are widened."""

    ids: NDArray[np.int64]
    """[n] token ids, one image id per picture."""
    labels: NDArray[np.bool_]
    """[n] True where the token is learned."""
    slots: NDArray[np.int64]
    """[k] places of the image ids."""

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
        return Encoded(self.ids[:end], self.labels[:end], self.slots)


class Chat:
    """A tokenizer folder (tokenizer.json, any Hugging Face one) and a template.

    Raises:
        UserError: no tokenizer there, or one without a token that the template needs.
    """

    def __init__(self, folder: str, template: TemplateConfig):
        from tokenizers import Tokenizer

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
        missing = [mark for mark in template.marks if self.tokenizer.token_to_id(mark) is None]
        if missing:
            raise UserError(
                f"the tokenizer in {folder} has no token {', '.join(missing)}: map data.template to tokens that it has, or add them"
            )
        self.tokenizer.encode_special_tokens = True  # marks inside a text are text
        ids: dict[str, int] = {mark: self.tokenizer.token_to_id(mark) or 0 for mark in template.marks}
        self.pad_id, self.bos_id, self.end_id = ids[template.pad], ids[template.bos], ids[template.end]
        self.user_id, self.assistant_id, self.image_id = (
            ids[template.user],
            ids[template.assistant],
            ids[template.image],
        )
        self.vocab_size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        self._text = lru_cache(maxsize=65536)(self._encode_text)

    def _encode_text(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(self, conversation: Conversation, pictures: int) -> Encoded:
        """A whole sample with `pictures` pictures.

        Raises:
            ValueError: the number of marks is not that of the pictures.
        """
        pieces = _Pieces(self)
        pieces.mark(self.bos_id)
        if conversation.messages is None:
            text = conversation.text or ""
            if IMAGE_MARK not in text:
                text = IMAGE_MARK * pictures + text
            self._interleaved(pieces, text)
        else:
            for message in conversation.messages:
                learned = message.role == "assistant"
                pieces.mark(self.assistant_id if learned else self.user_id)
                pieces.content(message.content, learned)
                if learned:
                    pieces.mark(self.end_id, True)
        return pieces.done(pictures)

    def _interleaved(self, pieces: "_Pieces", text: str) -> None:
        before, *rest = text.split(IMAGE_MARK)
        if before:
            pieces.text(before, True)
        for passage in rest:
            pieces.picture()
            if passage:
                pieces.text(passage, True)
                pieces.mark(self.end_id, True)
        if not rest:
            pieces.mark(self.end_id, True)

    def prompt(self, messages: Sequence[Message] | None, pictures: int) -> Encoded:
        """What stands before an answer: messages and the assistant's mark, or (None) a picture to caption.

        Pictures that no message marks come before the first user message's text.
        """
        pieces = _Pieces(self)
        pieces.mark(self.bos_id)
        if messages is None:
            for _ in range(pictures):
                pieces.picture()
            return pieces.done(pictures)
        marked = sum(message.content.count(IMAGE_MARK) for message in messages)
        for number, message in enumerate(messages):
            pieces.mark(self.assistant_id if message.role == "assistant" else self.user_id)
            lead = IMAGE_MARK * (pictures - marked) if number == 0 and marked < pictures else ""
            pieces.content(lead + message.content, False)
            if message.role == "assistant":
                pieces.mark(self.end_id)
        pieces.mark(self.assistant_id)
        return pieces.done(pictures)

    def continuation(self, text: str) -> list[int]:
        """What is learned after a prompt: the text's ids and the end mark."""
        return [*self._text(text), self.end_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def token(self, number: int) -> str:
        """One token as text, marks shown by name."""
        if number in self.special_ids:
            return self.tokenizer.id_to_token(int(number)) or ""
        # Behind another token, because decoding strips the space that opens a text.
        before = list(self._text("a"))
        plain = self.tokenizer.decode(before, skip_special_tokens=False)
        return self.tokenizer.decode([*before, int(number)], skip_special_tokens=False)[len(plain) :]

    @property
    def special_ids(self) -> frozenset[int]:
        return frozenset((self.pad_id, self.bos_id, self.end_id, self.user_id, self.assistant_id, self.image_id))


class _Pieces:
    """Collects tokens in order."""

    def __init__(self, chat: Chat):
        self.chat = chat
        self.ids: list[int] = []
        self.labels: list[bool] = []
        self.slots: list[int] = []

    def mark(self, number: int, learned: bool = False) -> None:
        self.ids.append(number)
        self.labels.append(learned)

    def picture(self) -> None:
        self.slots.append(len(self.ids))
        self.mark(self.chat.image_id)

    def text(self, text: str, learned: bool) -> None:
        ids = self.chat._text(text)
        self.ids.extend(ids)
        self.labels.extend([learned] * len(ids))

    def content(self, content: str, learned: bool) -> None:
        for number, part in enumerate(content.split(IMAGE_MARK)):
            if number:
                self.picture()
            if part:
                self.text(part, learned)

    def done(self, pictures: int) -> Encoded:
        if len(self.slots) != pictures:
            raise ValueError(f"{len(self.slots)} image marks for {pictures} pictures")
        return Encoded(np.array(self.ids, np.int64), np.array(self.labels, bool), np.array(self.slots, np.int64))
