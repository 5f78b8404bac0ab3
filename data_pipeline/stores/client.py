"""The connection of this process to an S3 server: one s3fs client, made when it is first needed, shared by all threads.

s3fs and botocore try each request once: `Patience` tries again, for a bounded time.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from configs.errors import UserError
from data_pipeline.stores.patience import Patience
from data_pipeline.stores.store import without_secrets

T = TypeVar("T")

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
"""Longest wait for a connection, and for the next bytes."""

SLOWEST = 64 * 2**10
"""Bytes per second: a request for or with so many bytes may take as much longer."""

CONNECTIONS = 256
"""A bound, not a target: who reads ahead leaves stalled requests behind until they end by themselves."""


@dataclass(frozen=True)
class Settings:
    """Where S3 is. Keys are not here: botocore takes them from the environment or the profile."""

    endpoint_url: str | None = None
    profile: str | None = None
    region: str | None = None
    ca_bundle: str | None = None
    path_style: bool = False

    def __post_init__(self) -> None:
        """Raises UserError for what cannot work."""
        if self.endpoint_url and without_secrets(self.endpoint_url) != self.endpoint_url:
            raise UserError(
                "storage.endpoint_url holds a name or password: take it out, keys go into AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY or a profile"
            )
        if self.endpoint_url and not self.endpoint_url.startswith(("http://", "https://")):
            raise UserError(f"storage.endpoint_url {self.endpoint_url!r} is no address: write http://HOST:PORT")
        if self.ca_bundle and not os.path.isfile(self.ca_bundle):
            raise UserError(f"storage.ca_bundle {self.ca_bundle!r} is no file: give the PEM file of the authorities")


def seconds_for(size: int) -> float:
    """Longest for a whole request. The waits above do not bound all: not a server that trickles, nor one that never
    says "100 Continue"."""
    return CONNECT_SECONDS + READ_SECONDS + size / SLOWEST


class Client:
    """Requests to one server, patient and bounded. Safe in threads; a forked child makes its own connection."""

    def __init__(self, settings: Settings):
        self.settings = settings
        named = settings.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        self.patience = Patience(without_secrets(named) if named else "S3")
        self._lock = threading.Lock()
        self._filesystem: Any = None

    def call(self, path: str, method: str, **request: Any) -> dict[str, Any]:
        """One request about the object or prefix at `path`. Errors as `Patience.with_`."""
        bucket, seconds = split(path)[0], seconds_for(len(request.get("Body", b"")))
        return self.run(path, lambda: self.filesystem().call_s3(method, Bucket=bucket, timeout=seconds, **request))

    def run(self, path: str, attempt: Callable[[], T]) -> T:
        return self.patience.with_(path, attempt)

    def filesystem(self) -> Any:
        """The connected s3fs file system."""
        with self._lock:
            if self._filesystem is None:
                self._filesystem = self._connect()
            return self._filesystem

    def _connect(self) -> Any:
        from s3fs import S3FileSystem

        settings = self.settings
        config: dict[str, Any] = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "max_pool_connections": CONNECTIONS,
            "retries": {"mode": "standard", "total_max_attempts": 1},
        }
        if settings.path_style:
            config["s3"] = {"addressing_style": "path"}
        client = {"region_name": settings.region, "verify": settings.ca_bundle}
        filesystem = S3FileSystem(
            endpoint_url=settings.endpoint_url,
            client_kwargs={name: value for name, value in client.items() if value},
            config_kwargs=config,
            use_listings_cache=False,
            skip_instance_cache=True,
            **({"profile": settings.profile} if settings.profile else {}),
        )
        filesystem.retries = 1
        filesystem.connect(timeout=60)
        return filesystem


def split(path: str) -> tuple[str, str]:
    """Bucket and key of s3://BUCKET/KEY. The key may be empty."""
    bucket, _, key = path.split("://", 1)[1].partition("/")
    if not bucket:
        raise UserError(f"{path!r} names no bucket: write s3://BUCKET/PATH")
    return bucket, key
