"""What aiohttp and the system raise -> `Failed` with a stable reason and a detail that is the same on each run."""

import errno
import socket

import aiohttp

from data_pipeline.ingest.fetch.failure import Failed
from data_pipeline.ingest.fetch.guard import Refused, is_unknown_host


def explain(error: Exception) -> Failed:
    """The failure that an exception of a request stands for. TimeoutErrors are the caller's: it knows which clock."""
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(inner, Refused):
        return inner.failed()
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        said = getattr(error.certificate_error, "verify_message", "") or "it does not match the host"
        return Failed("tls_certificate", f"the certificate is not accepted: {said}")
    if isinstance(error, aiohttp.ClientSSLError):
        return Failed("tls", f"no TLS with this host: {getattr(inner, 'reason', None) or type(inner).__name__}")
    if isinstance(inner, socket.gaierror):
        unknown = is_unknown_host(inner)
        return Failed("dns", "no such host" if unknown else "the name server does not answer", retryable=not unknown)
    if isinstance(error, aiohttp.InvalidURL):
        return Failed("bad_url", "not a URL")
    if isinstance(error, aiohttp.ClientConnectorError):
        return Failed("connect", f"nobody answers: {name_of(error.os_error)}", retryable=True)
    if isinstance(error, aiohttp.ClientPayloadError):
        return Failed("truncated", "the answer ends before it is whole", retryable=True)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return Failed("connection", "closed without an answer", retryable=True)
    if isinstance(error, aiohttp.ClientOSError):
        return Failed("connection", f"broken: {name_of(error)}", retryable=True)
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.http_exceptions.HttpProcessingError | ValueError):
        return Failed("bad_answer", "the answer is not HTTP as it should be")
    if isinstance(error, aiohttp.ClientError | OSError):
        return Failed("connection", f"broken: {name_of(error)}", retryable=True)
    return Failed("unexpected", type(error).__name__)


def name_of(error: BaseException) -> str:
    """ECONNREFUSED and the like, or the exception's type: never its text, which may hold ports and paths."""
    number = getattr(error, "errno", None)
    return errno.errorcode.get(number, type(error).__name__) if isinstance(number, int) else type(error).__name__
