"""One file into S3: a single put, or parts a few at a time. Nothing is at the name until all of it is.

Every part is tried again by itself. Memory: AT_ONCE parts. An upload that a killed process left in parts is invisible;
a lifecycle rule of the bucket (AbortIncompleteMultipartUpload) removes it.
"""

import contextlib
import logging
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

from configs.errors import RunError, UserError
from data_pipeline.stores.client import Client, split
from data_pipeline.stores.patience import Absent, ConditionFailed

PART = 8 * 2**20
MOST_PARTS = 10_000
AT_ONCE = 4
"""Parts (and blocks of a large read) under way at a time."""

TOKEN = "looksay-put"
log = logging.getLogger(__name__)


def upload(client: Client, path: str, source: BinaryIO, size: int, if_absent: bool) -> bool:
    """False: something is there, and `if_absent` was asked for. Errors as `Patience.with_`."""
    one = _Upload(client, path, source, if_absent)
    try:
        return one.single(size) if size < 2 * PART else one.parts(size)
    except ConditionFailed:
        return one.is_there()


class _Upload:
    """An answer can be lost after the server did as asked; asked again, it finds the object there. So each upload
    marks its object, and looks whose mark it is."""

    def __init__(self, client: Client, path: str, source: BinaryIO, if_absent: bool):
        self.client, self.path, self.source = client, path, source
        self.key = split(path)[1]
        self.mark = uuid.uuid4().hex
        self.condition = {"IfNoneMatch": "*"} if if_absent else {}
        self.lock = threading.Lock()

    def call(self, method: str, **request: Any) -> dict[str, Any]:
        return self.client.call(self.path, method, Key=self.key, **request)

    def is_there(self) -> bool:
        """Whether the object at the path is what this upload put there."""
        try:
            head = self.call("head_object")
        except Absent:
            return False
        return bool(head.get("Metadata", {}).get(TOKEN) == self.mark)

    def single(self, size: int) -> bool:
        self.call("put_object", Body=self.piece(0, size), Metadata={TOKEN: self.mark}, **self.condition)
        return True

    def parts(self, size: int) -> bool:
        part = max(PART, -(-size // MOST_PARTS))
        upload = self.call("create_multipart_upload", Metadata={TOKEN: self.mark})["UploadId"]
        try:
            done = list(self._parts(upload, size, part))
            self._complete(upload, done)
        except BaseException:
            self._abort(upload)
            raise
        stored = self.call("head_object")
        if stored.get("Metadata", {}).get(TOKEN) == self.mark and stored["ContentLength"] != size:
            raise RunError(f"{self.path} has {stored['ContentLength']} bytes, {size} were put: check the server's log")
        return True

    def _parts(self, upload: str, size: int, part: int) -> Iterator[dict[str, Any]]:
        def send(number: int) -> dict[str, Any]:
            body = self.piece(number * part, part)
            sent = self.call("upload_part", UploadId=upload, PartNumber=number + 1, Body=body)
            return {"PartNumber": number + 1, "ETag": sent["ETag"]}

        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            yield from pool.map(send, range(-(-size // part)))
        finally:
            pool.shutdown(cancel_futures=True)

    def _complete(self, upload: str, parts: list[dict[str, Any]]) -> None:
        try:
            self.call("complete_multipart_upload", UploadId=upload, MultipartUpload={"Parts": parts}, **self.condition)
        except Absent:  # no such upload: the first answer was lost, or somebody aborted it
            if not self.is_there():
                raise RunError(f"{self.path}: its upload is gone from the server: run the same command again") from None

    def _abort(self, upload: str) -> None:
        try:
            with contextlib.suppress(Absent):
                self.call("abort_multipart_upload", UploadId=upload)
        except (OSError, RunError, UserError) as error:
            log.warning("%s: an unfinished upload stays on the server (%s)", self.path, error)

    def piece(self, offset: int, size: int) -> bytes:
        with self.lock:
            self.source.seek(offset)
            return self.source.read(size)
