"""Lists: what an entry refuses and what it leaves, and a sentence for a line that is none."""

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UserError
from data_pipeline.ingest.filters.blocklists import Domains, Hashes, Words, host_of


def words(tmp_path: Path, *lines: str) -> Words:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return Words(str(path), "filters.words")


def domains(tmp_path: Path, *lines: str) -> Domains:
    path = tmp_path / "domains.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return Domains(str(path), "filters.domains")


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("cat", "A CAT!"),
        ("new york", "in New  York,"),
        ("new york", "new-york"),
        ("don't", "Don\u2019t go"),
        ("C++", "learn c++."),
        ("stra\u00dfe", "STRASSE"),
        ("\uff46\uff55\uff4c\uff4c", "full"),
        ("fun", "f\u00adu\u200bn"),
        ("\u732b\u54aa", "\u6211\u7684\u732b\u54aa\u5f88\u597d"),
        ("iphone\u624b\u673a", "\u65b0iPhone\u624b\u673a"),
        ("\u0e2a\u0e27\u0e31\u0e2a", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35"),
        ("\U0001f346", "no text\U0001f346"),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_words_that_are_found(tmp_path: Path, entry: str, text: str) -> None:
    assert words(tmp_path, "# a comment", "", entry).found(text) == "words.txt line 3"


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("cat", "catalogue, bobcat"),
        ("cat", ""),
        ("new york", "new. York"),
        ("new york", "york new"),
        ("new york", "new"),
        ("\u732b\u54aa", "\u732b\u3002\u54aa"),
        ("C++", "c +"),
        ("\u092e\u0947", "\u092e\u0947\u0902"),
    ],
)
def test_words_that_are_something_else(tmp_path: Path, entry: str, text: str) -> None:
    assert words(tmp_path, entry).found(text) is None


def test_the_first_place_and_the_shortest_entry_are_named(tmp_path: Path) -> None:
    held = words(tmp_path, "two three four", "two three", "one", "two three")
    assert held.found("zero two three four one") == "words.txt line 2"
    assert held.found("one two three") == "words.txt line 3"


def test_a_long_list_finds_what_a_plain_search_finds(tmp_path: Path) -> None:
    random.seed(0)
    letters = ["".join(random.choice("abcd") for _ in range(random.randint(1, 3))) for _ in range(40)]
    phrases = sorted({" ".join(random.choices(letters, k=random.randint(2, 4))) for _ in range(120)})
    held = words(tmp_path, *phrases)
    hits = 0
    for _ in range(500):
        text = " ".join(random.choices(letters, k=8))
        plain = any(f" {phrase} " in f" {text} " for phrase in phrases)
        assert (held.found(text) is not None) is plain
        hits += plain
    assert 50 < hits < 450


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("https://evil.com/a.jpg", "evil.com"),
        ("http://img.EVIL.com:8080/a", "evil.com"),
        ("HTTPS://user:word@a.b.evil.com", "evil.com"),
        ("http://evil.com./a", "evil.com"),
        ("http://evil.com\\@good.org/", "evil.com"),
        ("http://%65vil.com/a", "evil.com"),
        ("http://evil\u3002com/a", "evil.com"),
        ("http://\uff45vil.com/a", "evil.com"),
        ("http://cdn.wild.net/a", "wild.net"),
        ("http://wild.net/a", "wild.net"),
        ("http://m\u00fcnchen.de/a", "m\u00fcnchen.de"),
        ("http://XN--MNCHEN-3YA.de/a", "m\u00fcnchen.de"),
        ("http://xn--strae-oqa.de/", "stra\u00dfe.de"),
        ("http://10.0.0.1/x", "10.0.0.1"),
        ("https://dot.org", "dot.org"),
    ],
)
def test_domains_that_are_refused(tmp_path: Path, url: str, entry: str) -> None:
    lines = ("evil.com", "*.wild.net", "# no.org", "xn--mnchen-3ya.de", "Stra\u00dfe.de", "10.0.0.1", ".dot.org.")
    assert domains(tmp_path, *lines).found(url) == entry


@pytest.mark.parametrize(
    "url",
    [
        "https://notevil.com/a",
        "https://evil.com.good.org/a",
        "https://good.org/evil.com",
        "https://good.org/?u=http://evil.com",
        "https://evil.com@good.org/",
        "http://strasse.de/",
        "s3://evil.com/key",
        "photos/evil.com/a.jpg",
        "//evil.com/a.jpg",
        "http://[::1/a",
        "http:///a",
        "",
        "https://com/a",
        "http://xn--\u00e4.de",
        "http://xn--99999999999.de",
        "http://a\ud800.de/",
        "http://" + "a." * 5000 + "evil.com/",
    ],
)
def test_domains_that_are_let_through(tmp_path: Path, url: str) -> None:
    assert domains(tmp_path, "evil.com", "stra\u00dfe.de").found(url) is None


def test_a_host_has_one_spelling() -> None:
    assert host_of("HTTP://WWW.XN--MNCHEN-3YA.de:80/x") == "www.m\u00fcnchen.de"


def sha(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def test_hashes(tmp_path: Path) -> None:
    """As sha256sum writes them, upper case, or alone; zeros at an end are bytes as others."""
    zeros, start = bytes(32), bytes(31) + b"\x01"
    end = b"\x01" + bytes(31)
    lines = [f"{sha(0).hex()}  a.jpg", f" {sha(1).hex().upper()}\r", "# none", "", end.hex(), zeros.hex(), sha(0).hex()]
    (tmp_path / "hashes.txt").write_text("\n".join(lines))
    held = Hashes(str(tmp_path / "hashes.txt"), "filters.hashes")
    assert all(key in held for key in (sha(0), sha(1), end, zeros))
    assert not any(key in held for key in (sha(2), start, b"\x01" + bytes(30) + b"\x01", b"\xff" * 32))


def test_many_hashes_are_a_flat_array(tmp_path: Path) -> None:
    (tmp_path / "hashes.txt").write_text("\n".join(sha(n).hex() for n in range(0, 20_000, 2)))
    held = Hashes(str(tmp_path / "hashes.txt"), "filters.hashes")
    assert held.hashes.rows.nbytes == 32 * 10_000
    assert [sha(n) in held for n in range(1000)] == [n % 2 == 0 for n in range(1000)]


def test_empty_lists_refuse_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# nothing yet\n")
    path = str(tmp_path / "empty")
    assert sha(0) not in Hashes(path, "k")
    assert Domains(path, "k").found("http://a.b/") is None
    assert Words(path, "k").found("a b") is None


def test_lists_are_read_from_anywhere(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://lists/words.txt", "wb") as stream:
        stream.write(b"\xef\xbb\xbfcat\r\ndog\r\n")
    held = Words("memory://lists/words.txt", "filters.words")
    assert held.found("a cat") == "words.txt line 1" and held.found("dog") == "words.txt line 2"
    assert held.digest == hashlib.sha256(b"\xef\xbb\xbfcat\r\ndog\r\n").hexdigest()


@pytest.mark.parametrize(
    ("kind", "line", "said"),
    [
        (Words, b"-", "filters.list list.txt line 3 holds no word: write a word, or remove the line"),
        (Words, b"\xff\xfe", "filters.list list.txt line 3 is not UTF-8: save the file as UTF-8"),
        (Domains, b"http://a.b/c", "line 3 is no domain ('http://a.b/c'): write example.com, without http:// and path"),
        (Domains, b"*a.b", "line 3 is no domain"),
        (Domains, b"*.", "line 3 is no domain"),
        (Domains, b"0.0.0.0 a.b", "line 3 is no domain"),
        (Domains, b"a..b", "line 3 is no domain"),
        (Domains, b"a" * 300, "line 3 is no domain"),
        (Hashes, b"ab" * 31, "line 3 is no SHA-256"),
        (Hashes, b"g" * 64, "line 3 is no SHA-256"),
        (Hashes, b"\xff" * 100, "line 3 is no SHA-256"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, kind: type, line: bytes, said: str) -> None:
    (tmp_path / "list.txt").write_bytes(b"# one\n\n" + line + b"\n")
    with pytest.raises(UserError) as caught:
        kind(str(tmp_path / "list.txt"), "filters.list")
    assert said in str(caught.value) and "\n" not in str(caught.value) and str(caught.value).isprintable()


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(UserError, match=r"filters.words .* cannot be read \(\w+\): give a text file"):
            Words(str(path), "filters.words")


def test_numpy_keeps_zeros_of_fixed_bytes() -> None:
    """What the sorted array relies on: items of an array compare with their zeros."""
    assert np.searchsorted(np.array([b"a\0", b"b\0"], "S2"), np.array([b"b"], "S2"))[0] == 1
