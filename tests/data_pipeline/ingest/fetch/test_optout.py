"""X-Robots-Tag: what counts as said to us."""

import pytest

from configs.ingest import FetchConfig
from data_pipeline.ingest.fetch.optout import opted_out, product_token
from tests.data_pipeline.ingest.fetch.conftest import Made, get
from tests.support.hostile import HostileServer
from tests.support.hostile_pictures import picture

UNWANTED = frozenset(FetchConfig().opt_out)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        *[([directive], directive) for directive in ("noai", "noimageai", "noindex", "noimageindex", "none", "noml")],
        (["NoAI"], "noai"),
        (["nofollow, noai"], "noai"),
        (["nofollow", "noarchive", "noml"], "noml"),
        ([" noai ,nofollow"], "noai"),
        (["noai, unavailable_after: 25 Jun 2030 15:00:00 PST"], "noai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], "noai"),
        (["unavailable_after: Friday, 25-Jun-30 15:00:00 UTC, noimageai"], "noimageai"),
        (["max-snippet: 20, max-image-preview: large, noai"], "noai"),
        (["looksay: noai"], "noai"),
        (["LookSay: NOAI"], "noai"),
        (["looksay/0.1: noai"], "noai"),
        (["looksay: nofollow, noai"], "noai"),
        (["*: noai"], "noai"),
        (["otherbot: noindex, looksay: noai"], "noai"),
        (["otherbot: noindex", "noai"], "noai"),
        (["noai, otherbot: nofollow"], "noai"),
        (["noai: yes"], "noai"),
        (["noai noimageai"], "noai"),
        (["noai; nofollow"], "noai"),
        (["otherbot: noai"], None),
        (["otherbot: nofollow, noai"], None),
        (["otherbot: noindex", "looksay: nofollow"], None),
        (["looksayer: noai"], None),
        (["all"], None),
        (["nofollow, nosnippet"], None),
        (["index, follow"], None),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST"], None),
        (["unavailable_after: none"], None),
        (["max-image-preview: none"], None),
        (["noaid"], None),
        (["", ",", ":", ": noai x:", ",,:,"], None),
        ([], None),
    ],
)
def test_directives(lines: list[str], said: str | None) -> None:
    assert opted_out(lines, UNWANTED, "looksay") == said


def test_only_the_directives_of_the_recipe_count() -> None:
    assert opted_out(["noindex, noai"], frozenset({"noai"}), "looksay") == "noai"
    assert opted_out(["noindex"], frozenset({"noai"}), "looksay") is None
    assert opted_out(["noindex: noai"], frozenset({"noai"}), "noindex") is None, "a directive is no agent"


@pytest.mark.parametrize(
    ("user_agent", "token"),
    [
        (FetchConfig().user_agent, "looksay"),
        ("Mozilla/5.0 (compatible; MyBot/1.0; +http://x)", "mybot"),
        ("Data-Set_bot", "data-set_bot"),
        ("", ""),
    ],
)
def test_the_name_that_sites_use(user_agent: str, token: str) -> None:
    assert product_token(user_agent) == token


def test_header_lines_reach_the_rule(server: HostileServer, fetcher: Made) -> None:
    one = fetcher()
    for lines in ("noai", "nofollow|noml", "otherbot: noindex|noai, unavailable_after: 1 Jan 2030 00:00:00 GMT"):
        result = get(one, server.url(f"/opt-out.jpg?{lines}"))
        assert not isinstance(result, bytes) and (result.reason, result.retryable) == ("opt_out", False), lines
    for lines in ("otherbot: noai", "nofollow|nosnippet"):
        assert get(one, server.url(f"/opt-out.jpg?{lines}")) == picture(), lines
    assert get(fetcher(opt_out=()), server.url("/opt-out.jpg?noai")) == picture()
    assert get(fetcher(user_agent="otherbot/2"), server.url("/opt-out.jpg?otherbot: noai")) != picture()
