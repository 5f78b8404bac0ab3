"""What may be connected to: addresses, the many ways to write them, names that lead there, redirects, rebinding."""

import socket
from pathlib import Path

import pytest
from yarl import URL

from data_pipeline.ingest.fetch.address import parse_url
from data_pipeline.ingest.fetch.failure import Failed, FetchFailure
from data_pipeline.ingest.fetch.guard import Network, may_connect
from data_pipeline.ingest.record import ImageRef
from tests.data_pipeline.ingest.fetch.conftest import Made, get, reason
from tests.support.certificates import make_authority
from tests.support.hostile import HostileServer
from tests.support.hostile_pictures import picture

PUBLIC = "127.0.0.2"
"""An address of this machine that stands for the internet: what the guard of these tests allows."""


def world(names: dict[str, list[list[str]]], name_seconds: int = 60) -> Network:
    """Names -> the answers to the first, second, ... look-up (the last one stays)."""
    asked: dict[str, int] = {}

    async def resolve(host: str) -> list[str]:
        if host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        number = asked.get(host, 0)
        asked[host] = number + 1
        return names[host][min(number, len(names[host]) - 1)]

    return Network(resolve, lambda address: address == PUBLIC or may_connect(address), name_seconds)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.8.8.8",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.1.1",
            "0.0.0.0",
        ),
        *("0.1.2.3", "100.64.0.1", "100.127.255.255", "192.0.0.8", "198.18.0.1", "198.19.255.255", "224.0.0.1"),
        *("239.255.255.255", "240.0.0.1", "255.255.255.255", "192.0.2.1", "203.0.113.9", "169.254.169.254"),
        *("168.63.129.16", "100.100.100.200", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1"),
        *("ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b::a00:1"),
        *("64:ff9b:1::1", "2001:db8::1", "2002:7f00:1::", "2001:0:1::1", "::127.0.0.1", "fec0::1", "5f00::1"),
        *("not an address", "", "1.2.3", "localhost"),
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not may_connect(address)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.169.0.1",
            "198.17.0.1",
        ),
        *("198.20.0.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808"),
    ],
)
def test_public_addresses_are_allowed(address: str) -> None:
    assert may_connect(address)


def test_allow_private_opens_private_networks_but_not_where_clouds_keep_keys() -> None:
    for address in ("127.0.0.1", "10.0.0.1", "169.254.1.1", "100.64.0.1", "::1", "fe80::1%eth0", "fd12::1"):
        assert may_connect(address, allow_private=True), address
    metadata = ("169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fd00:ec2::254", "100.100.100.200")
    for address in (*metadata, "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"):
        assert not may_connect(address, allow_private=True), address


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0X7F.0.0.1",
            "0177.0.0.1",
            "017700000001",
        ),
        *(
            "127.0.0.1.",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:ffff:7f00:1]",
            "[64:ff9b::7f00:1]",
        ),
        *(
            "0.0.0.0",
            "0",
            "[::]",
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "[fe80::1%25lo]",
            "100.64.0.1",
            "224.0.0.1",
        ),
        *("127\u30020\u30020\u30021", "\uff11\uff12\uff17.0.0.1", "user:password@127.0.0.1"),
    ],
)
def test_an_address_in_a_url_is_refused_however_it_is_written(server: HostileServer, fetcher: Made, host: str) -> None:
    strict = fetcher(allow_private=False)
    assert reason(get(strict, f"http://{host}:{server.port}/good/1.jpg")) == "private_address"
    assert not server.log.connections


def test_odd_forms_are_still_fetched_where_the_address_may_be(server: HostileServer, fetcher: Made) -> None:
    assert get(fetcher(), f"http://0x7f.1:{server.port}/good/1.jpg") == picture(1)
    assert server.log.seen[-1].host == f"127.0.0.1:{server.port}"


@pytest.mark.parametrize("scheme", ["file", "data", "ftp", "gopher", "javascript", "dict", "ws", "sftp", "FILE", "jar"])
def test_other_schemes_are_refused_whatever_follows(tmp_path: Path, fetcher: Made, scheme: str) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(picture())
    for rest in (f"//{secret}", f"{secret}", f"//localhost{secret}", ":", "image/png;base64,aGVsbG8="):
        assert reason(get(fetcher(), f"{scheme}:{rest}")) == "scheme"


@pytest.mark.parametrize(
    "path", ["simplecache::http://127.0.0.1/x", "s3://a::file:///etc/passwd", "memory://x", "zip://a"]
)
def test_fsspec_is_reached_for_object_stores_only(fetcher: Made, path: str) -> None:
    assert reason(get(fetcher(), path)) in ("scheme", "not_found")
    assert fetcher()._engine is None


@pytest.mark.parametrize(
    "text",
    [
        *(
            "http://",
            "http:///x",
            "http://exa mple.com/",
            "http://a:99999/",
            "http://[::1/",
            "http://h\\@evil/",
            "http://-/",
        ),
        *(
            "http://h\r\nX: y/",
            "https:",
            f"http://a/{'x' * 9000}",
            "http://\u3002/",
            "http:/x",
            "http://a..b/",
            "http://\x00/",
        ),
    ],
)
def test_what_is_no_url_is_a_value_too(fetcher: Made, text: str) -> None:
    network = world({})
    assert reason(get(fetcher(network=network), text)) in ("bad_url", "dns")


def test_credentials_and_fragments_are_dropped(server: HostileServer, fetcher: Made) -> None:
    url = parse_url("http://user:secret@example.com/a b?c=d#e", lambda _: True)
    assert url == URL("http://example.com/a%20b?c=d")
    assert get(fetcher(), f"http://user:secret@127.0.0.1:{server.port}/good/1.jpg") == picture(1)
    assert "authorization" not in server.log.seen[-1].headers
    back = f"http://user:secret@127.0.0.1:{server.port}/good/2.jpg"
    assert get(fetcher(), server.url(f"/to.jpg?{back}")) == picture(2)
    assert all("authorization" not in one.headers for one in server.log.seen)


def test_line_breaks_in_a_path_make_no_header(server: HostileServer, fetcher: Made) -> None:
    get(fetcher(), server.url("/good/1.jpg\r\nX-Evil: yes"))
    assert all("x-evil" not in one.headers for one in server.log.seen)


def test_a_name_that_leads_inside_is_refused_and_nothing_is_connected(server: HostileServer, fetcher: Made) -> None:
    network = world({"evil.example": [["127.0.0.1"]], "evil6.example": [["::1"]]})
    one = fetcher(network=network)
    result = get(one, server.url("/good/1.jpg", "evil.example"))
    assert result == FetchFailure("private_address", "evil.example is 127.0.0.1, which is not a public address")
    assert reason(get(one, server.url("/good/1.jpg", "evil6.example"))) == "private_address"
    assert not server.log.connections


def test_of_a_name_with_several_addresses_only_public_ones_are_used(server: HostileServer, fetcher: Made) -> None:
    network = world({"mixed.example": [["127.0.0.1", "10.1.1.1", PUBLIC]]})
    assert get(fetcher(network=network), server.url("/good/1.jpg", "mixed.example")) == picture(1)
    assert {one.address for one in server.log.seen} == {PUBLIC}


def test_rebinding_is_refused_when_the_name_is_asked_again(server: HostileServer, fetcher: Made) -> None:
    """Public when it is asked first, private for every later connection."""
    network = world({"rebind.example": [[PUBLIC], ["127.0.0.1"]]}, name_seconds=0)
    one = fetcher(network=network, robots_txt=False)
    assert get(one, server.url("/good/1.jpg", "rebind.example")) == picture(1)
    slow = [(n, ImageRef(server.url(f"/good/slow{n}.jpg", "rebind.example"))) for n in range(8)]
    results = [result for _, result in one.fetch(slow)]
    assert sum(isinstance(result, bytes) for result in results) == 1, "the connection that was checked is used again"
    assert {result.reason for result in results if isinstance(result, FetchFailure)} == {"private_address"}
    assert {seen.address for seen in server.log.seen} == {PUBLIC}


def test_the_socket_itself_is_guarded(server: HostileServer, fetcher: Made) -> None:
    """Should an address get past all else, the connection's own socket is not made."""
    answers = iter([True, False])
    one = fetcher(network=Network(may_connect=lambda address: next(answers)), robots_txt=False)
    assert reason(get(one, server.url("/good/1.jpg"))) == "private_address"
    assert not server.log.connections


@pytest.mark.parametrize(
    "host", ["http://127.0.0.1", "http://inside.example", "http://0x7f.1", "//127.0.0.1", "//[::1]"]
)
def test_a_redirect_is_checked_like_the_first_address(server: HostileServer, fetcher: Made, host: str) -> None:
    network = world({"out.example": [[PUBLIC]], "inside.example": [["127.0.0.1"]]})
    result = get(fetcher(network=network), server.url(f"/to.jpg?{host}:{server.port}/good/1.jpg", "out.example"))
    assert reason(result) == "private_address"
    assert {one.address for one in server.log.seen} == {PUBLIC}


def test_robots_txt_is_guarded_too(server: HostileServer, fetcher: Made) -> None:
    """A site's robots.txt that redirects inside is not followed there."""
    network = world({"out.example": [[PUBLIC]]})
    server.robots = (302, b"", (f"Location: {server.url('/good/1.jpg')}",))
    assert reason(get(fetcher(network=network), server.url("/good/1.jpg", "out.example"))) == "private_address"
    assert len(server.log.seen) == 1
    assert {one.address for one in server.log.seen} == {PUBLIC}


def test_host_and_sni_are_kept_although_the_address_is_connected(tmp_path: Path, fetcher: Made) -> None:
    authority = make_authority(tmp_path)
    network = world({"pictures.example": [[PUBLIC]]})
    with HostileServer(context=authority.server_context("pictures.example")) as server:
        one = fetcher(network=network, ca_bundle=str(authority.pem))
        assert get(one, server.url("/good/1.jpg", "pictures.example")) == picture(1)
        assert server.log.names == ["pictures.example"]
        assert server.log.seen[-1].host == f"pictures.example:{server.port}"
        assert server.log.seen[-1].address == PUBLIC


def test_a_failed_name_is_not_asked_again_at_once(server: HostileServer, fetcher: Made) -> None:
    asked = []

    async def resolve(host: str) -> list[str]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    one = fetcher(network=Network(resolve))
    for _ in range(3):
        assert get(one, "http://gone.example/x.jpg") == FetchFailure("dns", "no such host")
    assert asked == ["gone.example"]


def test_a_name_server_that_fails_is_asked_again(server: HostileServer, fetcher: Made) -> None:
    answers: list[Exception | list[str]] = [socket.gaierror(socket.EAI_AGAIN, "later"), [PUBLIC]]

    async def resolve(host: str) -> list[str]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    one = fetcher(network=Network(resolve, lambda _: True), robots_txt=False)
    assert get(one, server.url("/good/1.jpg", "later.example")) == picture(1)


def test_failed_carries_what_a_failure_says() -> None:
    failed = Failed("http_503", "no", retryable=True, wait=3.0)
    assert failed.failure == FetchFailure("http_503", "no", True)
    assert failed.again and not Failed("http_404", "no").again
