"""The hostile server, and one picture fetched."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from configs.ingest import FetchConfig
from data_pipeline.ingest.fetch import client
from data_pipeline.ingest.fetch.failure import FetchFailure
from data_pipeline.ingest.fetch.fetcher import Fetcher
from data_pipeline.ingest.fetch.guard import Network
from data_pipeline.ingest.record import ImageRef
from tests.support.hostile import HostileServer

Made = Callable[..., Fetcher]


@pytest.fixture(scope="session")
def one_server() -> Iterator[HostileServer]:
    with HostileServer() as server:
        yield server


@pytest.fixture
def server(one_server: HostileServer) -> HostileServer:
    """With an empty log and the usual robots.txt."""
    one_server.reset()
    return one_server


@pytest.fixture
def fetcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Makes fetchers (settings of FetchConfig, `network`) that retry sooner than usual; closes them."""
    monkeypatch.setattr(client, "BACKOFF_SECONDS", 0.1)
    made: list[Fetcher] = []

    def make(*, network: Network | None = None, **settings: Any) -> Fetcher:
        config = FetchConfig(**{"allow_private": network is None, "deadline": 5.0, **settings})
        made.append(Fetcher(config, network=network))
        return made[-1]

    yield make
    for one in made:
        one.close()


def get(fetcher: Fetcher, url: str, **ref: Any) -> bytes | FetchFailure:
    """What comes of one reference."""
    [(key, result)] = fetcher.fetch([("key", ImageRef(url, **ref))])
    assert key == "key"
    return result


def reason(result: bytes | FetchFailure) -> str:
    """Of a failure; fails where there are bytes."""
    assert isinstance(result, FetchFailure), f"{len(result)} bytes"
    return result.reason
