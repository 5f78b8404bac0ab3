"""All that the hostile server does, at once: each row gets its reason in time, and the fetcher goes on working."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipeline.ingest.fetch.failure import FetchFailure
from data_pipeline.ingest.record import ImageRef
from tests.data_pipeline.ingest.fetch.conftest import Made, get
from tests.support.hostile import CASES, HostileServer
from tests.support.hostile_answers import METADATA
from tests.support.hostile_pictures import gzip_bomb, picture, png_bomb

DEADLINE = 3.0
ROOT = Path(__file__).resolve().parents[4]

WHOLE = {"/gzip.jpg", "/deflate.jpg", "/deflate-bare.jpg", "/gzip-claimed.jpg", "/busy.jpg?after=1"}
"""Of the cases without a reason: those that are sound pictures in the end."""

Results = dict[str, tuple[bytes | FetchFailure, float]]


@pytest.fixture(scope="module")
def results(one_server: HostileServer) -> Results:
    """Each case's result, and when it came (seconds after the start of all)."""
    from configs.ingest import FetchConfig
    from data_pipeline.ingest.fetch.fetcher import Fetcher

    png_bomb(), gzip_bomb()  # made before the clock starts
    one_server.reset()
    fetcher = Fetcher(FetchConfig(allow_private=True, deadline=DEADLINE, retries=1, per_host=64))
    start = time.monotonic()
    came: Results = {}
    for path, result in fetcher.fetch((path, ImageRef(one_server.url(path))) for path in CASES):
        came[path] = (result, time.monotonic() - start)
    after = [result for _, result in fetcher.fetch((n, ImageRef(one_server.url(f"/good/{n}.jpg"))) for n in range(20))]
    assert all(isinstance(result, bytes) for result in after), "the fetcher is of no use afterwards"
    fetcher.close()
    return came


@pytest.mark.parametrize("path", CASES)
def test_each_case_has_its_reason_in_time(results: Results, path: str) -> None:
    result, seconds = results[path]
    assert (None if isinstance(result, bytes) else result.reason) == CASES[path]
    assert seconds < DEADLINE + 1
    if path in WHOLE:
        assert result == picture()


def test_details_say_the_same_on_each_run(results: Results, one_server: HostileServer) -> None:
    """They are part of the dataset, which is the same bytes on each run: no ports, no objects' addresses."""
    details = [result.detail for result, _ in results.values() if isinstance(result, FetchFailure)]
    for detail in details:
        assert detail and str(one_server.port) not in detail and "0x" not in detail and "127.0.0.1" not in detail


@pytest.mark.parametrize("lie", ["/short.jpg", "/short-late.jpg", "/short-answer.jpg"])
def test_what_comes_after_an_answer_is_not_the_next_one(server: HostileServer, fetcher: Made, lie: str) -> None:
    """The connection was idle when it came: it is not used again."""
    one = fetcher(per_host=1, retries=0)
    for n in range(3):
        get(one, server.url(lie))
        time.sleep(0.2)
        assert [get(one, server.url(f"/good/{n + m}.jpg")) for m in (0, 1)] == [picture(n), picture(n + 1)]


@pytest.mark.parametrize("lie", ["/short.jpg", "/short-late.jpg"])
def test_rubbish_of_an_earlier_answer_is_not_the_next_rows_fault(
    server: HostileServer, fetcher: Made, lie: str
) -> None:
    """The connection was in use again when it came: the picture is asked for on a new one."""
    one = fetcher(per_host=1, retries=0)
    for n in range(3):
        get(one, server.url(lie))
        assert [get(one, server.url(f"/good/slow{n + m}.jpg")) for m in (0, 1)] == [picture(n), picture(n + 1)]


def test_a_redirect_never_leads_to_a_file(server: HostileServer, fetcher: Made, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    for target in (
        f"file://{secret}",
        f"FILE:{secret}",
        "ftp://127.0.0.1/x",
        "data:image/png;base64,aGVsbG8=",
        "s3://a/b",
    ):
        result = get(fetcher(), server.url(f"/to.jpg?{target}"))
        assert isinstance(result, FetchFailure) and result.reason == "scheme", target


def test_metadata_is_refused_even_with_allow_private(fetcher: Made) -> None:
    result = get(fetcher(allow_private=True), METADATA)
    assert result == FetchFailure("private_address", "169.254.169.254 is not a public address")


MEASURE = """
import resource, sys
from configs.ingest import FetchConfig
from data_pipeline.ingest.fetch.fetcher import Fetcher
from data_pipeline.ingest.record import ImageRef
fetcher = Fetcher(FetchConfig(allow_private=True, deadline=20))
def get(path):
    [(_, result)] = fetcher.fetch([(0, ImageRef(sys.argv[1] + path))])
    return result
get("/good/1.jpg")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = get(sys.argv[2])
print(result if not isinstance(result, bytes) else "bytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
fetcher.close()
"""


@pytest.mark.parametrize("path", ["/gzip-bomb.jpg", "/huge.jpg"])
def test_a_bomb_costs_less_than_50_mb(server: HostileServer, path: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, server.url(""), path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said, grown = done.stdout.rsplit(" ", 1)
    assert "too_large" in said
    assert int(grown) < 50_000, f"{grown.strip()} KB"
