"""Text rules: how words are cut in any script, and one reason for each rule."""

from typing import Any

import pytest

from configs.ingest import TextConfig
from data_pipeline.ingest.filters.text import TextRules, tokens_of, words_of
from data_pipeline.ingest.record import ImageRef, Record
from data_pipeline.sample import IMAGE_MARK, Message

HINDI = "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902"
CHINESE = "\u6211\u559c\u6b22\u732b"
THAI = "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35"
KOREAN = "\ud55c\uad6d\uc5b4 \ubb38\uc7a5"
CAT = "\U0001f431"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop, well-known cat_dog: 3 cats!", ["Don't", "stop", "well-known", "cat_dog", "3", "cats"]),
        (HINDI, HINDI.split()),  # vowel signs are marks, which \w does not know
        (KOREAN, KOREAN.split()),
        (CHINESE + "\u3002iPhone\u624b", [*CHINESE, "iPhone", "\u624b"]),
        ("\u3053\u308c\u306f\u30da\u30f3", list("\u3053\u308c\u306f\u30da\u30f3")),
        (THAI, [letter for letter in THAI if letter not in "\u0e31\u0e35"]),
        ("\U00020000\U0002a6d6", ["\U00020000", "\U0002a6d6"]),
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
        ("see https://a.b/c-d?e=1 or WWW.x.y, ok", ["see", "https://a.b/c-d?e=1", "or", "WWW.x.y,", "ok"]),
        (f"{CAT}{CAT} \u2764\ufe0f ... --- ''", []),
        ("", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_what_blocklists_compare() -> None:
    assert tokens_of("New-York's C++") == ["new", "york", "s", "c", "+", "+"]
    assert tokens_of("\uff26\uff35\uff2c\uff2c Stra\u00dfe f\u00adu\u200bn \u2764\ufe0f") == [
        "full",
        "strasse",
        "fun",
        "\u2764",
    ]
    assert tokens_of(THAI) == list(THAI)


def record(text: str | None = None, images: int = 1, **more: Any) -> Record:
    return Record(images=(ImageRef("a.png"),) * images, text=text, **more)


def talk(*turns: str, images: int = 1, rejected: str | None = None, roles: str = "ua") -> Record:
    names = {"u": "user", "a": "assistant", "s": "system"}
    messages = tuple(Message(names[role], said) for role, said in zip(roles, turns, strict=True))  # type: ignore[arg-type]
    return record(None, images, messages=messages, rejected=rejected)


ASK = f"{IMAGE_MARK}what is it?"


@pytest.mark.parametrize(
    "good",
    [
        record("a cat"),
        record("a cat", images=3),  # pictures before it
        record(f"a {IMAGE_MARK} and a {IMAGE_MARK}", images=2),
        record("text alone", images=0),
        talk(ASK, "a cat"),
        talk("what is love?", "a word", images=0),
        talk(ASK, "a cat", rejected="a dog"),
    ],
)
def test_whole_records_pass(good: Record) -> None:
    assert TextRules(TextConfig()).problem(good) is None


@pytest.mark.parametrize(
    ("bad", "rules", "reason", "detail"),
    [
        (record(""), {}, "empty_text", ""),
        (record(None), {}, "empty_text", ""),
        (record(f" {IMAGE_MARK}\n"), {}, "empty_text", ""),
        (talk(ASK, "b", roles="us"), {}, "no_answer", "roles ['system', 'user']"),
        (talk(ASK, "b", "c", roles="sua"), {}, "no_answer", "roles ['assistant', 'system', 'user']"),
        (record("four"), {"min_chars": 5}, "text_length", "4 characters"),
        (record("x" * 11), {"max_chars": 10}, "text_length", "11 characters"),
        (talk(ASK, "b", rejected="x" * 100), {"max_chars": 100}, "text_length", "119 characters"),
        (record(f"{IMAGE_MARK} a", images=2), {}, "image_marks", "1 marks for 2 pictures"),
        (record(f"{IMAGE_MARK} a", images=0), {}, "image_marks", "1 marks for 0 pictures"),
        (talk("what is it?", "a cat"), {}, "image_marks", "0 marks for 1 pictures"),
        (talk(ASK, "b", rejected=f"{IMAGE_MARK}c"), {}, "image_marks", "a mark in the rejected answer"),
        (record("half \ud83d a cat"), {}, "not_unicode", "half a character (a lone surrogate)"),
        (record(f"one two {IMAGE_MARK}"), {"min_words": 3}, "few_words", "2 words"),
        (record(CHINESE), {"min_words": 5}, "few_words", "4 words"),
        (record("one two three"), {"max_words": 2}, "many_words", "3 words"),
        (record("a 12 345"), {"min_letters": 0.5}, "few_letters", "0.167 of 6 characters are letters"),
        (record(f"{CAT} cat"), {"min_letters": 0.8}, "few_letters", "0.750 of 4 characters are letters"),
        (record("Buy now BUY now buy it"), {"max_repetition": 0.4}, "repetition", "3 of 6 words are 'buy'"),
        (record("http://a.b HTTPS://c.d www.e.f"), {"max_links": 2}, "links", "3 web addresses"),
    ],
)
def test_each_rule_has_its_reason(bad: Record, rules: dict[str, Any], reason: str, detail: str) -> None:
    problem = TextRules(TextConfig(**rules)).problem(bad)
    assert problem is not None
    assert (problem.stage, problem.reason, problem.detail) == ("filter", reason, detail)


@pytest.mark.parametrize(
    ("good", "rules"),
    [
        (record(CHINESE), {"min_words": 4}),
        (record(HINDI), {"min_letters": 1.0}),  # marks belong to letters
        (record(CHINESE + THAI + KOREAN), {"min_letters": 1.0}),
        (record("buy buy buy buy"), {"max_repetition": 0.1}),  # four words say little
        (record("a b c d e"), {"max_repetition": 0.2}),
        (record("www.a.b"), {"max_links": 1}),
        (record("awww.nice www. and http alone"), {"max_links": 0}),
    ],
)
def test_rules_that_hold_at_the_edge(good: Record, rules: dict[str, Any]) -> None:
    assert TextRules(TextConfig(**rules)).problem(good) is None


def test_hostile_text_takes_linear_time() -> None:
    """A hundred thousand characters that expressions with backtracking would choke on; seconds, or it hangs."""
    rules = TextRules(TextConfig(min_words=1, max_repetition=0.5, min_letters=0.9, max_links=0, max_chars=10**6))
    for text in ("a-" * 50_000, "a'" * 50_000 + "!", "www" * 30_000, "\u0301" * 100_000, "_" * 100_000):
        rules.problem(record(text))
        tokens_of(text)
