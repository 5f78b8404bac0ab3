"""robots.txt by RFC 9309: groups, the longest match, wildcards, encodings; and how it is asked for."""

import time

import pytest

from data_pipeline.ingest.fetch.robots import MAX_BYTES, parse
from data_pipeline.ingest.record import ImageRef
from tests.data_pipeline.ingest.fetch.conftest import Made, get, reason
from tests.support.hostile import HostileServer
from tests.support.hostile_pictures import picture


def allows(text: str, path: str, agent: str = "looksay") -> bool:
    return parse(text.encode(), agent).allows(path)


@pytest.mark.parametrize(
    ("rules", "path", "allowed"),
    [
        # RFC 9309, 5.2: longest match
        ("Allow: /example/page/\nDisallow: /example/page/disallowed.gif", "/example/page/disallowed.gif", False),
        ("Allow: /example/page/\nDisallow: /example/page/disallowed.gif", "/example/page/", True),
        # ... whatever the order; allow wins a tie
        ("Disallow: /\nAllow: /public", "/public/a.jpg", True),
        ("Disallow: /\nAllow: /public", "/other", False),
        ("Disallow: /page\nAllow: /page", "/page", True),
        # 2.2.3: special characters
        ("Disallow: /*.gif$", "/a/b.gif", False),
        ("Disallow: /*.gif$", "/a/b.gif?x=1", True),
        ("Disallow: *.gif$", "/a.gif", False),
        ("Disallow: /a*/c", "/ab/c/d", False),
        ("Disallow: /a*/c", "/ab/d", True),
        ("Disallow: /a*b*c", "/a-b-c-d", False),
        ("Disallow: /a*b*c", "/a-c-b", True),
        ("Disallow: /a*b$", "/ab", False),
        ("Disallow: /a*ab$", "/ab", True),
        ("Disallow: /a**b", "/aXb", False),
        ("Disallow: /x$", "/x", False),
        ("Disallow: /x$", "/xy", True),
        ("Disallow: /$", "/", False),
        ("Disallow: /$", "/a", True),
        ("Disallow: /*", "/anything", False),
        ("Disallow: *", "/anything", False),
        ("Disallow: /a$b", "/a$b", False),
        # table of Google's description of the format
        ("Allow: /page\nDisallow: /*.htm", "/page.htm", False),
        ("Allow: /p\nDisallow: /", "/page", True),
        ("Allow: /$\nDisallow: /", "/", True),
        ("Allow: /$\nDisallow: /", "/page.htm", False),
        # prefixes, case, query
        ("Disallow: /fish", "/fishheads.html?id=1", False),
        ("Disallow: /fish", "/Fish.asp", True),
        ("Disallow: /fish/", "/fish", True),
        ("Disallow: /*?", "/a?b", False),
        ("Disallow: fish", "/fish", False),
        # 2.2.2: percent-encoding
        ("Disallow: /foo/bar?baz=http%3A%2F%2Ffoo.bar", "/foo/bar?baz=http%3a%2f%2ffoo.bar", False),
        ("Disallow: /\u30c4", "/%E3%83%84.jpg", False),
        ("Disallow: /%e3%83%84", "/%E3%83%84.jpg", False),
        ("Disallow: /%62%61%7A", "/baz", False),
        ("Disallow: /a%2Fb", "/a/b", True),
        # nothing, comments, spaces, noise
        ("Disallow:", "/a", True),
        ("Disallow: # /a", "/a", True),
        ("  disallow :  /a  # why", "/a", False),
        ("DISALLOW: /a", "/a", False),
        ("Disallow: /a\nNoise\nSitemap: /s\nCrawl-delay: 3\nDisallow: /b", "/b", False),
        ("Disallow: /", "/robots.txt", True),
    ],
)
def test_rules(rules: str, path: str, allowed: bool) -> None:
    assert allows(f"User-agent: *\n{rules}\n", path) is allowed


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("User-agent: *\nDisallow: /\n\nUser-agent: looksay\nAllow: /", True),
        ("User-agent: looksay\nDisallow: /\n\nUser-agent: *\nAllow: /", False),
        ("User-agent: LookSay/1.0\nDisallow: /", False),
        ("User-agent: looks\nDisallow: /", True),
        ("User-agent: looksayer\nDisallow: /", True),
        ("User-agent: other\nUser-agent: looksay\nDisallow: /", False),
        ("User-agent: other\n\nUser-agent: looksay\n\nDisallow: /", False),
        ("User-agent: other\nSitemap: x\nUser-agent: looksay\nDisallow: /", False),
        ("User-agent: other\nDisallow: /\nUser-agent: looksay\nDisallow: /b", True),
        ("User-agent: looksay\nDisallow: /b\n\nUser-agent: looksay\nDisallow: /a", False),
        ("User-agent: looksay\n\nUser-agent: *\nDisallow: /", False),
        ("User-agent: looksay\nDisallow:\n\nUser-agent: *\nDisallow: /", True),
        ("Disallow: /", True),
        ("\ufeffUser-agent: *\r\nDisallow: /\r", False),
        ("User-agent: *\rDisallow: /", False),
        ("<html><body>not found</body></html>", True),
        ("", True),
    ],
)
def test_groups(text: str, allowed: bool) -> None:
    assert allows(text, "/a") is allowed


def test_what_lies_behind_the_size_limit_is_not_read() -> None:
    head = b"User-agent: *\nDisallow: /first\n"
    rules = parse(head + b"#" * MAX_BYTES + b"\nDisallow: /last\n", "looksay")
    assert not rules.allows("/first") and rules.allows("/last")


def test_no_rule_makes_matching_slow() -> None:
    """Backtracking over so many stars would take longer than the universe has."""
    start = time.process_time()
    assert allows("User-agent: *\nDisallow: /" + "*a" * 5000 + "*b$", "/" + "a" * 8000)
    assert time.process_time() - start < 5


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert parse(b"\xff\xfe\x00User-agent: *\nDisallow: /\x80\n", "looksay").allows("/a")


def test_each_origin_is_asked_once_however_many_start(server: HostileServer, fetcher: Made) -> None:
    one = fetcher()
    for _ in range(2):
        refs = [(n, ImageRef(server.url(f"/good/{n}.jpg"))) for n in range(40)]
        assert all(isinstance(result, bytes) for _, result in one.fetch(refs))
    assert server.log.count("/robots.txt") == 1
    get(one, server.url("/good/1.jpg", "127.0.0.4"))
    assert server.log.count("/robots.txt") == 2


def test_a_denied_picture_is_not_asked_for(server: HostileServer, fetcher: Made) -> None:
    assert reason(get(fetcher(), server.url("/denied/1.jpg"))) == "robots_txt"
    assert [one.target for one in server.log.seen] == ["/robots.txt"]
    assert get(fetcher(robots_txt=False), server.url("/denied/1.jpg")) == picture(1)


def test_a_redirect_to_what_is_denied_is_not_followed(server: HostileServer, fetcher: Made) -> None:
    assert reason(get(fetcher(), server.url("/to.jpg?/denied/1.jpg"))) == "robots_txt"
    assert server.log.count("/denied/1.jpg") == 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429])
def test_no_robots_txt_allows_all(server: HostileServer, fetcher: Made, status: int) -> None:
    server.robots = (status, b"User-agent: *\nDisallow: /", ())
    assert get(fetcher(), server.url("/good/1.jpg")) == picture(1)


def test_a_robots_txt_that_fails_forbids_for_now(server: HostileServer, fetcher: Made) -> None:
    server.robots = (503, b"", ())
    one = fetcher(retries=0)
    for _ in range(2):
        result = get(one, server.url("/good/1.jpg"))
        assert not isinstance(result, bytes) and (result.reason, result.retryable) == ("robots_unreachable", True)
    assert [seen.target for seen in server.log.seen] == ["/robots.txt"]


def test_a_robots_txt_that_fails_once_is_asked_again(server: HostileServer, fetcher: Made) -> None:
    to = server.url("/busy.jpg?status=503")
    server.robots = (302, b"", (f"Location: {to}",))
    assert get(fetcher(retries=1), server.url("/good/1.jpg")) == picture(1)


def test_a_robots_txt_may_redirect(server: HostileServer, fetcher: Made) -> None:
    server.robots = (301, b"", ("Location: /hop/4.jpg",))
    assert get(fetcher(max_redirects=0), server.url("/good/1.jpg")) == picture(1)
    server.robots = (301, b"", ("Location: /robots.txt",))
    assert get(fetcher(), server.url("/good/1.jpg")) == picture(1), "endless redirects: as if there were none"


def test_a_robots_txt_that_does_not_end_is_read_in_part(server: HostileServer, fetcher: Made) -> None:
    server.robots = (302, b"", ("Location: /endless.jpg",))
    assert get(fetcher(), server.url("/good/1.jpg")) == picture(1)


def test_a_robots_txt_that_does_not_come_costs_half_the_deadline(server: HostileServer, fetcher: Made) -> None:
    server.robots = (302, b"", ("Location: /silent.jpg",))
    assert reason(get(fetcher(deadline=1.0), server.url("/good/1.jpg"))) == "robots_unreachable"
