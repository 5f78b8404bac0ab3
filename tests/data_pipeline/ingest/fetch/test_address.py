"""A URL as data has it, and the one that is asked for."""

import pytest
from yarl import URL

from data_pipeline.ingest.fetch.address import parse_url, scheme_of
from data_pipeline.ingest.fetch.failure import Failed


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("http://a.example/x.jpg", "http://a.example/x.jpg"),
        ("  HTTP://A.Example/X.jpg \n", "http://a.example/X.jpg"),
        ("https://a.example", "https://a.example/"),
        ("https://a.example?q", "https://a.example/?q"),
        ("http://a.example:8080/x", "http://a.example:8080/x"),
        ("http://a.example:80/x", "http://a.example/x"),
        ("http://u:p@a.example/x", "http://a.example/x"),
        ("http://a.example/x#part", "http://a.example/x"),
        (
            "http://a.example/a%2Fb%7Ec?u=http%3A%2F%2Fb&sig=a+b%20c",
            "http://a.example/a%2Fb%7Ec?u=http%3A%2F%2Fb&sig=a+b%20c",
        ),
        ("http://a.example/a b|c", "http://a.example/a%20b%7Cc"),
        ("http://a.example/\u00e9\u30c4?q=\u00e9", "http://a.example/%C3%A9%E3%83%84?q=%C3%A9"),
        ("http://a.example/a\r\nX: y", "http://a.example/a%0D%0AX:%20y"),
        ("http://a.example/p/../x/./y", "http://a.example/x/y"),
        ("http://m\u00fcnchen.example/x", "http://xn--mnchen-3ya.example/x"),
        ("http://a_b.example/x", "http://a_b.example/x"),
        ("http://0x08080808/x", "http://8.8.8.8/x"),
        ("http://[2606:4700::1111]:81/x", "http://[2606:4700::1111]:81/x"),
        ("http://a.example//x//y.jpg", "http://a.example//x//y.jpg"),
    ],
)
def test_what_is_asked_for(text: str, asked: str) -> None:
    url = parse_url(text, lambda _: True)
    assert str(url) == asked


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("/y", "https://a.example/y"),
        ("z?q=%2F", "https://a.example/d/z?q=%2F"),
        ("../z", "https://a.example/z"),
        ("?q", "https://a.example/d/x?q"),
        ("//b.example/z", "https://b.example/z"),
        ("http://b.example/z", "http://b.example/z"),
        ("/a b", "https://a.example/a%20b"),
        ("/\udcc3\udca9", "https://a.example/%C3%A9"),  # bytes beyond ASCII, as aiohttp hands on those it cannot decode
        ("", "https://a.example/d/x"),
    ],
)
def test_redirects_are_relative_to_where_they_come_from(location: str, asked: str) -> None:
    assert str(parse_url(location, lambda _: True, URL("https://a.example/d/x"))) == asked


def test_scheme() -> None:
    assert [scheme_of(path) for path in ("HTTP://x", " file:/x", "s3://a", "/a:b/c", "a/b:c", "", "a b:c")] == [
        *("http", "file", "s3", "", "", "", "")
    ]
    with pytest.raises(Failed, match="scheme"):
        parse_url("/no/scheme.jpg", lambda _: True)
