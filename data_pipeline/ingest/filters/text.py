"""Rules on a record's text that hold in any language: record -> Reject or None. And how text is cut into words.

A *word* is a run of letters, marks and digits, with ' - _ inside (don't, well-known). Scripts that put no space
between words (Chinese, Japanese kana, Thai, Lao, Khmer, Burmese) have no words to see without a dictionary: there each
letter counts as one. A web address is one word; punctuation and emoji are none. The mark of a picture is no text.
"""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

from configs.ingest import TextConfig
from data_pipeline.ingest.record import Record
from data_pipeline.sample import IMAGE_MARK, Message, Reject

UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # ideographic iteration mark, zero
    (0x3040, 0x30FF),  # kana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # ideographs
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),  # Burmese extended
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),  # compatibility ideographs
    (0xFF66, 0xFF9F),  # halfwidth kana
    (0x1AFF0, 0x1B16F),  # kana extended
    (0x20000, 0x3FFFF),  # ideographs
)
SCANNED = 0x20000
"""Code points whose category is looked up; beyond are ideographs only (and tags, which are nothing)."""
FEW_WORDS = 5
"""A text of fewer words repeats itself by chance."""
LINK = r"(?i:https?://|\bwww\.(?=\w))[!-~]*"


@cache
def _classes() -> tuple[str, str, str]:
    """For regular expressions: a letter of unspaced scripts; a run of word characters of others; letters and marks.

    Python's own \\w lacks combining marks, which cuts Hindi and Tamil words to pieces.
    """
    categories = [unicodedata.category(chr(code))[0] for code in range(SCANNED)]
    unspaced = {code for first, last in UNSPACED for code in range(first, min(last + 1, SCANNED))}
    beyond = "\U00020000-\U0003ffff"
    alone = _ranges(code for code in sorted(unspaced) if categories[code] in "LN") + beyond
    starts, words, letters = (
        _ranges(code for code in range(SCANNED) if categories[code] in kinds and code not in but)
        for kinds, but in (("LN", unspaced), ("LMN", unspaced), ("LM", ()))
    )
    return f"[{alone}]", f"[{starts}][{words}]*", f"[{letters}{beyond}]+"


def _ranges(codes: Iterable[int]) -> str:
    """Ascending code points -> ranges; an odd one ends the last range."""
    out, first, last = [], -2, -2
    for code in (*codes, sys.maxunicode + 2):
        if code != last + 1:
            if first >= 0:
                out.append(f"{_escaped(first)}-{_escaped(last)}")
            first = code
        last = code
    return "".join(out)


def _escaped(code: int) -> str:
    return f"\\U{code:08x}"


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    alone, run, letters = _classes()
    return {
        "word": re.compile(rf"{LINK}|{alone}|{run}(?:['\u2019_-]{run})*"),
        "token": re.compile(rf"{alone}|{run}|[^\s'\u2019_-]"),
        "letters": re.compile(letters),
        "link": re.compile(LINK),
        "hidden": re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]"),
    }


def words_of(text: str) -> list[str]:
    """Words as rules count them."""
    return _patterns()["word"].findall(text)


def tokens_of(text: str) -> list[str]:
    """What a blocklist compares: words in NFKC and without case, and every other character but space and ' - _ alone.

    So `cat` is not found in `catalogue`, an unspaced script is searched character by character, `C++` keeps its
    signs, and characters that nobody sees (soft hyphen, zero-width space) hide nothing.
    """
    if text.isascii():
        text = text.lower()
    else:
        text = unicodedata.normalize("NFKC", text).casefold()
        text = _patterns()["hidden"].sub("", unicodedata.normalize("NFKC", text))
    return _patterns()["token"].findall(text)


def contents_of(record: Record) -> list[str]:
    """Every text of a record: caption, or turns and the answer that was not chosen."""
    if record.messages is None:
        return [record.text or ""]
    return [m.content for m in record.messages] + ([record.rejected] if record.rejected else [])


class TextRules:
    """The rules of a recipe's `text`, in a fixed order; the first that is broken names the reason."""

    def __init__(self, config: TextConfig):
        self.config = config
        self._counts_words = config.min_words > 0 or config.max_words is not None or config.max_repetition < 1

    def problem(self, record: Record) -> Reject | None:
        return self._shape(record) or self._language("\n".join(contents_of(record)).replace(IMAGE_MARK, " "))

    def _shape(self, record: Record) -> Reject | None:
        """What holds whatever is said: some text, an answer, a bearable length, a mark for each picture."""
        if record.messages is None and not (record.text or "").replace(IMAGE_MARK, "").strip():
            return Reject("filter", "empty_text")
        if record.messages is not None:
            roles = {m.role for m in record.messages}
            if "assistant" not in roles or not roles <= {"user", "assistant"}:
                return Reject("filter", "no_answer", f"roles {sorted(roles)}")
        contents = contents_of(record)
        chars = sum(len(c) for c in contents)
        if not self.config.min_chars <= chars <= self.config.max_chars:
            return Reject("filter", "text_length", f"{chars} characters")
        marks = _marks(record.messages or (Message("user", record.text or ""),))
        if marks != len(record.images) and (marks or record.messages is not None):
            return Reject("filter", "image_marks", f"{marks} marks for {len(record.images)} pictures")
        if record.rejected and IMAGE_MARK in record.rejected:
            return Reject("filter", "image_marks", "a mark in the rejected answer")
        if any(not c.isascii() and _has_surrogate(c) for c in contents):
            return Reject("filter", "not_unicode", "half a character (a lone surrogate)")
        return None

    def _language(self, text: str) -> Reject | None:
        config = self.config
        if config.max_links is not None and (links := len(_patterns()["link"].findall(text))) > config.max_links:
            return Reject("filter", "links", f"{links} web addresses")
        if self._counts_words and (problem := self._words(words_of(text))):
            return problem
        if config.min_letters > 0 and (seen := len("".join(text.split()))):
            share = sum(map(len, _patterns()["letters"].findall(text))) / seen
            if share < config.min_letters:
                return Reject("filter", "few_letters", f"{share:.3f} of {seen} characters are letters")
        return None

    def _words(self, words: list[str]) -> Reject | None:
        config, count = self.config, len(words)
        if count < config.min_words:
            return Reject("filter", "few_words", f"{count} words")
        if config.max_words is not None and count > config.max_words:
            return Reject("filter", "many_words", f"{count} words")
        if count >= FEW_WORDS and config.max_repetition < 1:
            word, most = Counter(word.casefold() for word in words).most_common(1)[0]
            if most > config.max_repetition * count:
                return Reject("filter", "repetition", f"{most} of {count} words are {word[:40]!r}")
        return None


def _marks(messages: Iterable[Message]) -> int:
    return sum(m.content.count(IMAGE_MARK) for m in messages)


def _has_surrogate(text: str) -> bool:
    """JSON can hold half a character, which no file can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
