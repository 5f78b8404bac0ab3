"""One picture over HTTP: headers sent, statuses, redirects, retries and waiting, caps, parts, TLS, connections."""

import time
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.ingest import FetchConfig
from data_pipeline.ingest.fetch.failure import FetchFailure
from data_pipeline.ingest.record import ImageRef
from tests.data_pipeline.ingest.fetch.conftest import Made, get, reason
from tests.support.certificates import make_authority
from tests.support.hostile import HostileServer
from tests.support.hostile_pictures import picture


def test_what_is_sent(server: HostileServer, fetcher: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # it would look up names behind the guard's back
    assert get(fetcher(), server.url("/good/1.jpg?a=b%2Fc&d=e f")) == picture(1)
    robots, request = server.log.seen
    assert (robots.target, request.target) == ("/robots.txt", "/good/1.jpg?a=b%2Fc&d=e%20f")
    for seen in (robots, request):
        assert seen.headers["user-agent"] == FetchConfig().user_agent and "+https://" in seen.headers["user-agent"]
        assert seen.headers["accept-encoding"] == "identity"
        assert set(seen.headers) == {"host", "user-agent", "accept", "accept-encoding"}


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (404, False),
        (403, False),
        (410, False),
        (451, False),
        (501, False),
        (204, False),
        (304, False),
        (408, True),
        (429, True),
    ]
    + [(status, True) for status in (500, 502, 503, 504, 520, 599)],
)
def test_statuses(server: HostileServer, fetcher: Made, status: int, retryable: bool) -> None:
    result = get(fetcher(retries=1), server.url(f"/status/{status}.jpg"))
    assert result == FetchFailure(f"http_{status}", f"the server answers {status}", retryable)
    assert server.log.count(f"/status/{status}.jpg") == (2 if retryable else 1)


def test_connections_are_used_again_across_calls_even_after_refusals(server: HostileServer, fetcher: Made) -> None:
    one = fetcher()
    for path in ("/good/1.jpg", "/status/404.jpg", "/good/2.jpg", "/hop/3.jpg", "/denied/1.jpg", "/good/3.jpg"):
        get(one, server.url(path))
    assert server.log.connections == 1


def test_retries_back_off(server: HostileServer, fetcher: Made) -> None:
    target = "/busy.jpg?times=2&status=503"
    assert get(fetcher(retries=2), server.url(target)) == picture()
    first, second, third = [seen.time for seen in server.log.seen if seen.target == target]
    assert second - first >= 0.1 and third - second >= 0.2


def test_no_more_retries_than_asked_for(server: HostileServer, fetcher: Made) -> None:
    assert reason(get(fetcher(retries=0), server.url("/busy.jpg?status=503"))) == "http_503"
    assert server.log.count("/busy.jpg?status=503") == 1


@pytest.mark.parametrize("form", ["after=1&status=429", "after=1&status=503", "after=2&date=1&status=429"])
def test_retry_after_is_waited_for(server: HostileServer, fetcher: Made, form: str) -> None:
    target = f"/busy.jpg?{form}"
    assert get(fetcher(), server.url(target)) == picture()
    first, second = [seen.time for seen in server.log.seen if seen.target == target]
    assert second - first >= 0.95


def test_who_asks_to_wait_too_long_is_not_waited_for(server: HostileServer, fetcher: Made) -> None:
    start = time.monotonic()
    for after in ("99", "99999999999999999999", "-3"):
        result = get(fetcher(deadline=3.0, retries=0 if after == "-3" else 2), server.url(f"/busy.jpg?after={after}"))
        assert isinstance(result, FetchFailure) and (result.reason, result.retryable) == ("http_429", True)
        assert server.log.count(f"/busy.jpg?after={after}") == 1
    assert time.monotonic() - start < 3


def test_a_host_that_asks_for_rest_gets_it(server: HostileServer, fetcher: Made) -> None:
    """The pictures that wait for their turn are not sent into a server that said when to come again."""
    one = fetcher(per_host=2, robots_txt=False)
    paths = ["/busy.jpg?after=1", "/good/slow0.jpg", *(f"/good/{n}.jpg" for n in range(1, 4))]
    assert all(isinstance(r, bytes) for _, r in one.fetch((p, ImageRef(server.url(p))) for p in paths))
    times = {seen.target: seen.time for seen in reversed(server.log.seen)}
    assert times[paths[1]] - times[paths[0]] < 0.95, "was under way already"
    assert all(times[path] - times[paths[0]] >= 0.95 for path in paths[2:])


def test_redirects_up_to_the_cap(server: HostileServer, fetcher: Made) -> None:
    one = fetcher(max_redirects=3)
    assert get(one, server.url("/hop/3.jpg")) == picture()
    assert get(one, server.url("/hop/4.jpg")) == FetchFailure("too_many_redirects", "more than 3")
    assert reason(get(fetcher(max_redirects=0), server.url("/hop/1.jpg"))) == "too_many_redirects"


@pytest.mark.parametrize("chunked", ["", "&chunked"])
@pytest.mark.parametrize("cap", [1000, 3 * 2**20])
def test_the_cap_is_exact(server: HostileServer, fetcher: Made, cap: int, chunked: str) -> None:
    one = fetcher(max_bytes=cap)
    assert get(one, server.url(f"/large.jpg?{cap}{chunked}")) == bytes(cap)
    assert get(one, server.url(f"/large.jpg?{cap + 1}{chunked}")) == FetchFailure("too_large", f"more than {cap} bytes")


def test_the_cap_holds_for_what_is_unpacked(server: HostileServer, fetcher: Made) -> None:
    size = len(picture())
    assert get(fetcher(max_bytes=size + 1000), server.url("/gzip.jpg")) == picture()
    assert reason(get(fetcher(max_bytes=size - 1), server.url("/deflate.jpg"))) == "too_large"


def test_parts_of_a_file(server: HostileServer, fetcher: Made) -> None:
    one = fetcher()
    assert get(one, server.url("/part.jpg"), offset=10, size=100) == picture()[10:110]
    assert reason(get(one, server.url("/part.jpg?whole"), offset=10, size=100)) == "no_ranges"
    assert reason(get(one, server.url("/part.jpg?other"), offset=10, size=100)) == "bad_answer"
    assert reason(get(fetcher(max_bytes=99), server.url("/part.jpg"), offset=10, size=100)) == "too_large"
    assert reason(get(one, server.url("/part.jpg"), offset=len(picture()) - 10, size=100)) == "truncated"


def test_a_server_that_says_nothing_is_asked_once_more(server: HostileServer, fetcher: Made) -> None:
    assert reason(get(fetcher(deadline=1.6, retries=1), server.url("/silent.jpg"))) == "deadline"
    assert server.log.count("/silent.jpg") == 2


def test_nobody_answers(fetcher: Made) -> None:
    result = get(fetcher(retries=0), "http://127.0.0.1:1/x.jpg")
    assert result == FetchFailure("connect", "nobody answers: ECONNREFUSED", retryable=True)


def test_https_with_an_authority_of_ones_own(tmp_path: Path, fetcher: Made) -> None:
    authority = make_authority(tmp_path)
    with HostileServer(context=authority.server_context("localhost")) as server:
        one = fetcher(ca_bundle=str(authority.pem))
        refs = [(n, ImageRef(server.url(f"/good/{n}.jpg", "localhost"))) for n in range(30)]
        assert dict(one.fetch(refs)) == {n: picture(n % 10) for n in range(30)}
        assert server.log.connections <= 1 + FetchConfig().per_host
        unknown = get(fetcher(), server.url("/good/1.jpg", "localhost"))
        assert isinstance(unknown, FetchFailure) and (unknown.reason, unknown.retryable) == ("tls_certificate", False)
        other_name = get(one, server.url("/good/1.jpg", "127.0.0.1"))
        assert isinstance(other_name, FetchFailure) and other_name.reason == "tls_certificate"
        plain = get(one, f"http://localhost:{server.port}/good/1.jpg")
        assert isinstance(plain, FetchFailure) and plain.reason in ("bad_answer", "connection")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_bad_ca_bundle_is_a_sentence(tmp_path: Path, fetcher: Made, content: str | None) -> None:
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    with pytest.raises(UserError, match=r"fetch.ca_bundle .* give a PEM file"):
        get(fetcher(ca_bundle=str(bundle)), "https://127.0.0.1:1/x.jpg")
