"""The contract between every room of the pipeline: what a sample is, and what a rejected one leaves behind.

`Record (a row of the source) -> Sample | Reject -> tar + index`. Plain dataclasses, no third-party import.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

IMAGE_MARK = "<image>"
"""Stands in a message's text where a picture goes; the template may map it to another token."""

ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn. `content` holds one IMAGE_MARK for each picture that belongs at that place."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class ImageInfo:
    """Size of one picture as stored, in pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class Sample:
    """One training sample: either `text` (a caption, pictures before it) or `messages`.

    `images` are the encoded bytes as stored in the tar, in the order of their marks. `provenance` says where
    the sample came from (source row, label, question ids, ...): JSON values only. `rejected` is the answer that was
    not chosen, of a preference row whose last message is the chosen one.
    """

    key: str
    images: tuple[bytes, ...]
    formats: tuple[str, ...]
    infos: tuple[ImageInfo, ...]
    text: str | None = None
    messages: tuple[Message, ...] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    rejected: str | None = None

    def body(self) -> bytes:
        """The KEY.json member: {text | messages, rejected?, provenance}, stable byte for byte."""
        data: dict[str, Any] = {}
        if self.messages is not None:
            data["messages"] = [{"role": m.role, "content": m.content} for m in self.messages]
        else:
            data["text"] = self.text
        if self.rejected is not None:
            data["rejected"] = self.rejected
        data["provenance"] = self.provenance
        return json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Conversation:
    """The text side of a stored sample: what `KEY.json` says."""

    text: str | None
    messages: tuple[Message, ...] | None
    provenance: dict[str, Any]
    rejected: str | None = None


def parse_body(body: bytes) -> Conversation:
    """Read a KEY.json member. Raises ValueError that says what is wrong with it."""
    data = json.loads(body)
    if not isinstance(data, dict) or (("text" in data) == ("messages" in data)):
        raise ValueError("a sample's JSON needs exactly one of `text` and `messages`")
    messages = None
    if "messages" in data:
        messages = tuple(Message(m["role"], m["content"]) for m in data["messages"])
        for message in messages:
            if message.role not in ROLES:
                raise ValueError(f"role {message.role!r} is not one of {ROLES}")
    return Conversation(data.get("text"), messages, data.get("provenance", {}), data.get("rejected"))


@dataclass(frozen=True)
class Reject:
    """Why an input row is not in the dataset. `stage` is the room that refused it, `reason` a short stable name."""

    stage: Literal["source", "fetch", "decode", "filter", "dedup"]
    reason: str
    detail: str = ""


def key_of(position: int) -> str:
    """KEY of an input row: its position, 12 digits."""
    return f"{position:012d}"
