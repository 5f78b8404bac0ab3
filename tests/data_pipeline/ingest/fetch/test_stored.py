"""Pictures that are files: local ones, and objects on a real S3 server."""

import os
from pathlib import Path

import pytest

from configs.ingest import StorageConfig
from data_pipeline import storage
from data_pipeline.ingest.fetch.body import SMALL
from data_pipeline.ingest.fetch.failure import FetchFailure
from data_pipeline.ingest.record import ImageRef
from tests.data_pipeline.ingest.fetch.conftest import Made, get, reason
from tests.support.hostile_pictures import picture
from tests.support.s3_server import S3Server


def test_a_file_whole_and_in_part(fetcher: Made, tmp_path: Path) -> None:
    file = tmp_path / "a b\u00e9.jpg"
    file.write_bytes(picture())
    one = fetcher()
    assert get(one, str(file)) == picture()
    assert get(one, str(file), offset=10, size=100) == picture()[10:110]
    assert get(one, str(file), offset=10, size=0) == b""
    assert reason(get(one, str(file), offset=len(picture()) - 5, size=10)) == "truncated"


def test_what_a_file_may_be_instead(fetcher: Made, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "closed.jpg").write_bytes(picture())
    (tmp_path / "closed.jpg").chmod(0)
    (tmp_path / "file").write_bytes(b"")
    one = fetcher()
    assert get(one, str(tmp_path / "none.jpg")) == FetchFailure("not_found", "no such file")
    assert reason(get(one, str(tmp_path / "file" / "x.jpg"))) == "not_found"
    assert reason(get(one, "")) == "not_found"
    assert reason(get(one, "a\0b")) == "bad_url"
    assert reason(get(one, "x" * 5000)) == "storage"
    for name in ("", "pipe"):
        assert reason(get(one, str(tmp_path / name))) == "not_a_file"
    assert reason(get(one, "/dev/zero")) == "not_a_file"
    if os.geteuid() != 0:
        assert reason(get(one, str(tmp_path / "closed.jpg"))) == "permission"
    assert get(one, str(tmp_path / "file")) == b""


def test_permission(fetcher: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied", "/somebody/s/path")

    monkeypatch.setattr(os, "open", refused)
    assert get(fetcher(), str(tmp_path / "a.jpg")) == FetchFailure("permission", "no permission to read it")


def test_the_cap_is_checked_before_anything_is_read(fetcher: Made, tmp_path: Path) -> None:
    file = tmp_path / "huge.jpg"
    with open(file, "wb") as stream:
        stream.truncate(2**40)  # sparse: a read of it would not fit
    one = fetcher()
    assert reason(get(one, str(file))) == "too_large"
    assert reason(get(one, str(file), offset=0, size=2**39)) == "too_large"
    assert get(fetcher(max_bytes=100), str(file), offset=2**39, size=100) == bytes(100)


def test_objects_of_a_store(fetcher: Made, s3: S3Server) -> None:
    storage.configure(StorageConfig(endpoint_url=s3.endpoint_url))
    folder = s3.fresh("fetch")
    large = bytes(range(256)) * (3 * SMALL // 256)
    for name, data in (("small.jpg", picture()), ("large.jpg", large), ("empty.jpg", b"")):
        storage.put(f"{folder}/{name}", data)
    one = fetcher(max_bytes=len(large), robots_txt=False)
    refs = [("small", ImageRef(f"{folder}/small.jpg")), ("large", ImageRef(f"{folder}/large.jpg"))]
    refs += [("empty", ImageRef(f"{folder}/empty.jpg")), ("none", ImageRef(f"{folder}/none.jpg"))]
    refs += [("part", ImageRef(f"{folder}/large.jpg", offset=SMALL - 3, size=SMALL + 7))]
    refs += [("past", ImageRef(f"{folder}/small.jpg", offset=len(picture()) - 3, size=7))]
    results = dict(one.fetch(refs))
    assert results.pop("past") == FetchFailure("truncated", "3 of 7 bytes")
    assert results == {
        "small": picture(),
        "large": large,
        "empty": b"",
        "none": FetchFailure("not_found", "no such file"),
        "part": large[SMALL - 3 : 2 * SMALL + 4],
    }
    capped = fetcher(max_bytes=len(picture()) - 1)
    assert {reason(get(capped, f"{folder}/{name}.jpg")) for name in ("small", "large")} == {"too_large"}
    assert reason(get(capped, f"{folder}/large.jpg", offset=0, size=len(picture()))) == "too_large"
    bound = fetcher(max_bytes=2 * SMALL)
    assert reason(get(bound, f"{folder}/large.jpg")) == "too_large"


def test_a_store_that_hangs_is_given_up(fetcher: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    release = threading.Event()
    monkeypatch.setattr(storage, "read_range", lambda *_: release.wait(30))
    assert reason(get(fetcher(deadline=0.5), "s3://bucket/a.jpg")) == "deadline"
    release.set()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError("no"), FetchFailure("permission", "no permission to read it")),
        (FileNotFoundError("s3://..."), FetchFailure("not_found", "no such file")),
        (ConnectionResetError(104, "reset by 10.0.0.1:12345"), FetchFailure("storage", "ECONNRESET", True)),
        (RuntimeError("at 0x7f00"), FetchFailure("storage", "RuntimeError", True)),
    ],
)
def test_errors_of_a_store(
    fetcher: Made, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: FetchFailure
) -> None:
    def failing(*_: object) -> bytes:
        raise error

    monkeypatch.setattr(storage, "read_range", failing)
    assert get(fetcher(), "s3://bucket/a.jpg") == expected
