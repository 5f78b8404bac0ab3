"""Ray's Jobs API over HTTP, with a token where there is one. Standard library only: a login node needs no ray."""

import http.client
import json
import os
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, urlsplit

from cluster.rayjobs.tokens import find_token
from configs.errors import RunError, UserError

SECONDS = 60.0
"""Deadline of one answer: taking a job means starting a process on the head."""


class NotFound(RunError):
    """The cluster does not know the job."""


class _Stay(urllib.request.HTTPRedirectHandler):
    """No redirect is followed: it would take the token elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


class JobsApi:
    """The API at `address` (http://HOST:PORT).

    Args:
        token_file: of the token; none: where Ray looks for it.
    """

    def __init__(self, address: str, token_file: str | None = None):
        self.address, self.token_file = address, token_file
        # No proxy either, for the same reason: heads of clusters are near.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay())

    def version(self) -> dict[str, Any]:
        """What answers, with its `ray_version`.

        Raises:
            UserError: no Ray, a wrong token, or something else.
        """
        told = self._call("GET", "/api/version")
        if "ray_version" not in told:
            raise UserError(self._no_ray())
        return told

    def submit(self, request: dict[str, Any]) -> str:
        """Hand in a job; returns its id."""
        told = self._call("POST", "/api/jobs/", json.dumps(request).encode())
        return str(told.get("submission_id") or told["job_id"])

    def job(self, number: str) -> dict[str, Any]:
        """What is known of a job.

        Raises:
            NotFound: nothing.
        """
        return self._call("GET", f"/api/jobs/{quote(number, safe='')}")

    def stop(self, number: str) -> None:
        """Tell a job to end."""
        self._call("POST", f"/api/jobs/{quote(number, safe='')}/stop", b"")

    def has_package(self, name: str) -> bool:
        try:
            self._send("GET", f"/api/packages/gcs/{name}", None)
        except NotFound:
            return False
        return True

    def put_package(self, name: str, data: bytes) -> None:
        """Upload a zip that runtime environments name gcs://NAME."""
        self._send("PUT", f"/api/packages/gcs/{name}", data)

    def _call(self, method: str, path: str, data: bytes | None = None) -> dict[str, Any]:
        text = self._send(method, path, data)
        try:
            tree = json.loads(text)
        except ValueError:
            raise UserError(self._no_ray()) from None
        if not isinstance(tree, dict):
            raise UserError(self._no_ray())
        return tree

    def _send(self, method: str, path: str, data: bytes | None) -> bytes:
        token, source = find_token(os.environ, self.token_file)
        request = urllib.request.Request(self.address + path, method=method, data=data)
        request.add_header("Content-Type", "application/json")
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with self._opener.open(request, timeout=SECONDS) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise self._refusal(error, token is not None, source) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            said = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
            host = urlsplit(self.address).netloc
            raise UserError(
                f"no Ray answers at {self.address} ({said}): start its head with `ray start --head --include-dashboard=true`, "
                f"open a tunnel to {host}, or correct scheduler.address of the site file"
            ) from None

    def _refusal(self, error: urllib.error.HTTPError, had_token: bool, source: str) -> Exception:
        """An answer that is a refusal, as a sentence with its remedy."""
        said = error.read(1 << 16).decode(errors="replace").strip()
        last = said.splitlines()[-1] if said else error.reason
        if error.code in (401, 403) and had_token:
            return UserError(
                f"the Ray at {self.address} does not take the token of {source}: get the right one from whoever started the "
                "cluster, and name its file with scheduler.token_file"
            )
        if error.code in (401, 403):
            return UserError(
                f"the Ray at {self.address} wants a token and there is none in {source}: put it into a file of mode 600 and "
                "name that with scheduler.token_file"
            )
        if error.code == 404 and "does not exist" in said:
            return NotFound(f"the Ray at {self.address} does not know it: {last}")
        if error.code == 404 and "/packages/" in (error.url or ""):
            return NotFound(f"the Ray at {self.address} has no such package")
        if error.code == 404 or error.code < 400:
            return UserError(self._no_ray())
        return RunError(f"the Ray at {self.address} did not do it ({last}): its dashboard.log says more; try again")

    def _no_ray(self) -> str:
        return (
            f"what answers at {self.address} is not Ray's Jobs API: correct scheduler.address of the site file (the head's "
            "dashboard, port 8265 unless it was given another)"
        )
