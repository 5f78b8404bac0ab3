"""A template applied: captions and conversations -> the parts of a sample, in order. No tokens yet."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from configs.data import TemplateConfig
from data_pipeline.sample import IMAGE_MARK, Conversation, Message


class Part(NamedTuple):
    """A template's mark, a piece of a content, or a picture (whose text is the template's image token)."""

    kind: Literal["mark", "content", "image"]
    text: str
    learned: bool = False


def sample_parts(template: TemplateConfig, conversation: Conversation, pictures: int) -> list[Part]:
    """A whole sample. The pictures that it marks may be others than `pictures`: the caller compares."""
    turns = _Turns(template)
    if conversation.messages is not None:
        turns.open(sum(message.content.count(IMAGE_MARK) for message in conversation.messages), talk=True)
        for message in conversation.messages:
            turns.message(message, learned=True)
        return turns.parts
    text = conversation.text or ""
    marked = text.count(IMAGE_MARK)
    turns.open(marked or pictures)
    if template.images_first or not marked:
        turns.caption(text, pictures)
    else:
        turns.interleaved(text)
    return turns.parts


def prompt_parts(template: TemplateConfig, messages: Sequence[Message] | None, pictures: int) -> list[Part]:
    """What stands before an answer, or (None) before a caption; nothing of it is learned."""
    turns = _Turns(template)
    if messages is None:
        turns.open(pictures)
        turns.caption(None, pictures)
        return turns.parts
    marked = sum(message.content.count(IMAGE_MARK) for message in messages)
    turns.open(max(marked, pictures), talk=True)
    for number, message in enumerate(messages):
        lead = IMAGE_MARK * (pictures - marked) if number == 0 and marked < pictures else ""
        turns.message(Message(message.role, lead + message.content), learned=False)
    turns.mark(template.assistant)
    return turns.parts


class _Turns:
    def __init__(self, template: TemplateConfig):
        self.template, self.parts, self.pictures = template, list[Part](), 0

    def mark(self, text: str, learned: bool = False) -> None:
        if text:
            self.parts.append(Part("mark", text, learned))

    def content(self, text: str, learned: bool) -> None:
        if text:
            self.parts.append(Part("content", text, learned))

    def picture(self) -> None:
        self.pictures += 1
        self.mark(self.template.image_before.replace("{n}", str(self.pictures)))
        self.parts.append(Part("image", self.template.image))
        self.mark(self.template.image_after)

    def open(self, pictures: int, talk: bool = False) -> None:
        """What comes before any text: `bos`, pictures where they come first, a conversation's system text."""
        first = self.template.images_first
        if first == "after_bos":
            self.mark(self.template.bos)
        for _ in range(pictures if first else 0):
            self.picture()
        if first != "after_bos":
            self.mark(self.template.bos)
        if talk:
            self.mark(self.template.system)

    def message(self, message: Message, learned: bool) -> None:
        template, content = self.template, message.content
        answer = message.role == "assistant"
        if template.images_first and IMAGE_MARK in content:
            content = content.replace(IMAGE_MARK, "").strip()
        opening = template.assistant if answer else template.user
        tight = template.tight_images and content.startswith(IMAGE_MARK)
        self.mark(opening.rstrip(" ") if tight else opening)
        before, *rest = content.split(IMAGE_MARK)
        self.content(before, learned and answer)
        for passage in rest:
            self.picture()
            self.content(self._after_picture(passage), learned and answer)
        if answer:
            self.mark(template.end, learned)
            self.mark(template.assistant_end)
        else:
            self.mark(template.user_end)

    def _after_picture(self, passage: str) -> str:
        return passage.removeprefix("\n") if self.template.image_after.endswith("\n") else passage

    def caption(self, text: str | None, pictures: int) -> None:
        """Pictures, and what they show; None: it is to be said."""
        if not self.template.images_first:
            for _ in range(pictures):
                self.picture()
        if pictures:
            self.mark(self.template.caption_prompt)
        if text is not None:
            self.content(text.replace(IMAGE_MARK, ""), True)
            # Without a word there is nothing to end, but where there is no picture either.
            self.mark(self.template.end if text or not pictures else "", True)

    def interleaved(self, text: str) -> None:
        """Each passage after a picture closes with `end`."""
        before, *rest = text.split(IMAGE_MARK)
        self.content(before, True)
        for passage in rest:
            self.picture()
            if passage := self._after_picture(passage):
                self.content(passage, True)
                self.mark(self.template.end, True)
