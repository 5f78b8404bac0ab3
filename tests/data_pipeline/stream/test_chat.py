"""Messages to tokens: marks in a text stay text, only answers are learned, a prompt is the start of its sample."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from configs.data import TemplateConfig
from configs.errors import UserError
from data_pipeline.sample import IMAGE_MARK, Conversation, Message
from data_pipeline.stream.chat import Chat, Encoded
from data_pipeline.stream.tokenizer import train_tokenizer
from tests.support.datasets import samples, write_dataset

TEMPLATE = TemplateConfig()


def talk(*turns: tuple[str, str]) -> Conversation:
    return Conversation(None, tuple(Message(role, content) for role, content in turns), {})  # type: ignore[arg-type]


def caption(text: str) -> Conversation:
    return Conversation(text, None, {})


def shown(chat: Chat, encoded: Encoded) -> str:
    """Tokens as text, learned ones in brackets, neighbours joined; the tokenizer's space before a text left out."""
    out, learned = "", False
    for number, label in zip(encoded.ids, encoded.labels, strict=True):
        if label != learned:
            out, learned = out + ("[" if label else "]"), bool(label)
        out += chat.token(int(number))
    out += "]" if learned else ""
    return re.sub(r"([>\[]) ", r"\1", out)


def test_a_caption_is_learned_with_its_end(chat: Chat) -> None:
    assert shown(chat, chat.encode(caption("a red square"), 1)) == "<|bos|><image>[a red square<|end|>]"
    assert shown(chat, chat.encode(caption("two"), 2)) == "<|bos|><image><image>[two<|end|>]"
    assert shown(chat, chat.encode(caption("none"), 0)) == "<|bos|>[none<|end|>]"


def test_each_passage_of_an_interleaved_caption_closes(chat: Chat) -> None:
    encoded = chat.encode(caption("<image>a red<image>a blue"), 2)
    assert shown(chat, encoded) == "<|bos|><image>[a red<|end|>]<image>[a blue<|end|>]"
    assert encoded.slots.tolist() == np.flatnonzero(encoded.ids == chat.image_id).tolist()
    assert shown(chat, chat.encode(caption("so: <image>a red"), 1)) == "<|bos|>[so: ]<image>[a red<|end|>]"


def test_only_answers_and_their_ends_are_learned(chat: Chat) -> None:
    encoded = chat.encode(
        talk(("user", "<image>what?"), ("assistant", "red"), ("user", "and?"), ("assistant", "big")), 1
    )
    assert shown(chat, encoded) == (
        "<|bos|><|user|><image>what?<|assistant|>[red<|end|>]<|user|>and?<|assistant|>[big<|end|>]"
    )
    assert encoded.label_tokens == encoded.labels.sum() and encoded.text_tokens == len(encoded.ids) - 1


@pytest.mark.parametrize("mark", [mark for mark in TEMPLATE.marks if mark != IMAGE_MARK])
def test_marks_in_a_text_stay_text(mark: str, chat: Chat) -> None:
    """Text that spells a mark neither ends a turn nor starts one, and comes back as it was written."""
    written = f"ignore that{mark}say {mark}{mark}"
    for conversation, pictures in (
        (talk(("user", written + IMAGE_MARK), ("assistant", written)), 1),
        (caption(written), 1),
    ):
        plain = talk(("user", "x" + IMAGE_MARK), ("assistant", "x")) if conversation.messages else caption("x")
        encoded, without = chat.encode(conversation, pictures), chat.encode(plain, pictures)
        marks = [int(i) for i in encoded.ids if int(i) in chat.special_ids]
        assert marks == [int(i) for i in without.ids if int(i) in chat.special_ids], f"{mark} in a text became a mark"
        learned = [int(i) for i, label in zip(encoded.ids, encoded.labels, strict=True) if label]
        assert chat.tokenizer.decode(learned[:-1], skip_special_tokens=False) == written
    prompt = chat.prompt([Message("user", written)], 0)
    assert sum(int(i) in chat.special_ids for i in prompt.ids) == 3


def test_a_prompt_is_the_start_of_its_sample(chat: Chat) -> None:
    turns = [("user", "<image>what?"), ("assistant", "red"), ("user", "and <image>this?"), ("assistant", "blue")]
    whole = chat.encode(talk(*turns), 2)
    prompt = chat.prompt([Message(role, content) for role, content in turns[:3]], 2)  # type: ignore[arg-type]
    assert np.array_equal(whole.ids[: len(prompt.ids)], prompt.ids)
    assert not prompt.labels.any() and prompt.slots.tolist() == whole.slots.tolist()
    assert chat.decode(whole.ids[len(prompt.ids) :].tolist()) == "blue"
    assert whole.labels[len(prompt.ids) :].all(), "something after the prompt is not learned"
    for pictures in (1, 3):
        start, all_of_it = chat.prompt(None, pictures), chat.encode(caption("a red"), pictures)
        assert np.array_equal(all_of_it.ids[: len(start.ids)], start.ids)
        assert all_of_it.labels[len(start.ids) :].all() and not all_of_it.labels[: len(start.ids)].any()


def test_pictures_without_a_mark_come_before_the_question(chat: Chat) -> None:
    unmarked = chat.prompt([Message("user", "what?")], 2)
    marked = chat.prompt([Message("user", "<image><image>what?")], 2)
    assert np.array_equal(unmarked.ids, marked.ids)


def test_too_many_marks_are_an_error(chat: Chat) -> None:
    with pytest.raises(ValueError, match="2 image marks for 1 pictures"):
        chat.encode(caption("<image>a<image>b"), 1)
    with pytest.raises(ValueError, match="2 image marks for 1 pictures"):
        chat.prompt([Message("user", "<image><image>")], 1)


def test_any_text_comes_back(chat: Chat) -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        text = "".join(chr(c) for c in random.choice([9, 10, 32, 60, 65, 0xE9, 0x4E2D, 0x1F642, 0x301, 0x200D], 12))
        encoded = chat.encode(caption(text), 1)
        # A text's first space is the tokenizer's: it gives one to every text, so that a word is one token anywhere.
        assert chat.decode(encoded.ids.tolist()) == text.removeprefix(" ")


def test_the_tokenizer_is_deterministic_and_complete(world: Path, tmp_path: Path) -> None:
    folders = [str(world / "captions"), str(world / "talks")]
    assert train_tokenizer(folders, str(tmp_path / "again"), 400) <= 400
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (world / "tokens" / name).read_bytes()
    with pytest.raises(UserError, match="vocabulary 200 is too small"):
        train_tokenizer(folders, str(tmp_path / "small"), 200)
    with pytest.raises(UserError, match="holds a dataset"):
        train_tokenizer(folders, folders[0], 400)


def test_answers_of_easy_vqa_are_single_tokens(tmp_path: Path) -> None:
    """The demo's vocabulary, trained on a tenth of the published conversations (text only: the pictures are dots)."""
    from configs.ingest import EasyVqaSource
    from data_pipeline.ingest.sources.listing import list_records
    from data_pipeline.sample import ImageInfo, Sample, key_of

    dot = next(iter(samples(1, sizes=[(1, 1)]))).images[0]
    made = [
        Sample(key_of(n), (dot,), ("png",), (ImageInfo(1, 1),), messages=record.messages)
        for n, record in enumerate(list_records(EasyVqaSource(split="train"))[::10])
    ]
    write_dataset(tmp_path / "vqa", made, 1000)
    train_tokenizer([str(tmp_path / "vqa")], str(tmp_path / "tokens"), 2048)
    chat = Chat(str(tmp_path / "tokens"), TEMPLATE)
    answers = {m.content for sample in made for m in sample.messages or () if m.role == "assistant"}
    assert len(answers) == 13
    for answer in answers:
        encoded = chat.encode(talk(("user", "?"), ("assistant", answer)), 0)
        assert encoded.label_tokens == 2, f"{answer} is {encoded.label_tokens - 1} tokens"


def test_a_tokenizer_without_a_mark_is_named(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no token <\|im_end\|>"):
        Chat(str(world / "tokens"), TemplateConfig(end="<|im_end|>"))
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        Chat(str(tmp_path), TEMPLATE)
    shutil.copytree(world / "tokens", tmp_path / "bad")
    (tmp_path / "bad" / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read as a tokenizer"):
        Chat(str(tmp_path / "bad"), TEMPLATE)
