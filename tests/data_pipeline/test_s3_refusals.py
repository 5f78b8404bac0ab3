"""S3 says no: one sentence that names the path, what S3 said and the remedy, and never a secret."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.ingest import StorageConfig
from data_pipeline import storage
from tests.support.s3_server import S3Server

MIB = 2**20

ACTS: dict[str, Callable[[str], Any]] = {
    "read": storage.read_bytes,
    "range": lambda path: storage.read_range(path, 0, 3),
    "stream": storage.open_stream,
    "exists": storage.exists,
    "list": storage.listdir,
    "glob": lambda path: storage.glob(path + "/*"),
    "put": lambda path: storage.put(path, b"x"),
    "put once": lambda path: storage.put(path, b"x", if_absent=True),
    "put parts": lambda path: storage.put(path, b"x" * 17 * MIB),
    "remove": storage.remove,
    "remove tree": storage.remove_tree,
}


def refused(act: str, path: str, *secrets: str) -> str:
    """The sentence of the UserError; no secret is in it, nor in the traceback."""
    with pytest.raises(UserError) as caught:
        ACTS[act](path)
    told = "".join(traceback.format_exception(caught.value))
    assert not [secret for secret in secrets if secret in told]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("act", ACTS)
def test_a_wrong_secret(act: str, s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = "planted+secret/that-is-wrong"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", wrong)
    storage.configure(StorageConfig())
    path = storage.join(s3_folder, "a")
    said = refused(act, path, wrong)
    assert path in said and "refuses these keys" in said and "AWS_ACCESS_KEY_ID" in said


def test_an_unknown_key_and_none_at_all(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")
    storage.configure(StorageConfig())
    assert "InvalidAccessKeyId" in refused("read", s3_folder + "/a")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    storage.configure(StorageConfig())
    assert "there are no keys for S3" in refused("put", s3_folder + "/a")


def test_keys_that_may_only_read(s3: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = storage.join(s3_folder, "a")
    storage.put(path, b"abc")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.read_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.read_secret)
    storage.configure(StorageConfig())
    assert storage.read_bytes(path) == b"abc" and storage.listdir(s3_folder) == ["a"]
    for act in ("put", "put parts", "remove"):
        assert "AccessDenied" in refused(act, path, s3.read_secret)
    assert "AccessDenied" in refused("remove tree", s3_folder, s3.read_secret)
    storage.configure(StorageConfig())
    assert storage.read_bytes(path) == b"abc"


def test_keys_that_may_only_put(s3: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look before a put under a condition is refused: the put itself is what counts."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.put_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.put_secret)
    storage.configure(StorageConfig())
    assert storage.put(s3_folder + "/a", b"1", if_absent=True)
    refused("read", s3_folder + "/a", s3.put_secret)


@pytest.mark.parametrize("act", ["read", "stream", "exists", "list", "glob"])
def test_no_such_bucket(act: str, s3_folder: str) -> None:
    said = refused(act, "s3://no-such-bucket-here/a")
    assert "has no bucket 'no-such-bucket-here'" in said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"endpoint_url": "http://name:pass-word@127.0.0.1:1"}, "holds a name or password"),
        ({"endpoint_url": "127.0.0.1:9000"}, "is no address"),
        ({"ca_bundle": "/no/such.pem"}, "is no file"),
    ],
)
def test_settings_that_cannot_work(values: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        storage.configure(StorageConfig(**values))
    assert "pass-word" not in str(caught.value)


def test_names_that_cannot_be(s3_folder: str) -> None:
    assert "names no bucket" in refused("read", "s3:///a")
    assert "check the path" in refused("read", "s3://no bucket!/a")
    storage.configure(StorageConfig(profile="nobody-has-it"))
    assert "nobody-has-it" in refused("read", s3_folder + "/a")


def test_settings_go_before_the_environment(
    s3: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A profile has the keys, the recipe the endpoint; what the environment says is wrong."""
    storage.put(storage.join(s3_folder, "a"), b"abc")
    keys = f"[build]\naws_access_key_id = {s3.key}\naws_secret_access_key = {s3.secret}\n"
    (tmp_path / "credentials").write_text(keys)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")
    storage.configure(StorageConfig(endpoint_url=s3.endpoint_url, profile="build", region="us-east-1", path_style=True))
    assert storage.read_bytes(storage.join(s3_folder, "a")) == b"abc"
    assert os.environ["AWS_ACCESS_KEY_ID"] == "AKIANOBODY"
