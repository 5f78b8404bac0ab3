"""Why a picture could not be had: `FetchFailure`, the value that goes out; `Failed`, the same as an exception inside.

Reasons are few and stable, for statistics and `--retry-failed`; the detail is a sentence that is the same on each run
(no ephemeral port, no path of this machine):

    bad_url, scheme            not an address, or not one of http, https (file:, data:, ftp: ... are never opened)
    private_address            a host that is or resolves to an address that is not public
    dns, connect, connection   no such host; nobody answers; the connection broke
    tls_certificate, tls       the certificate does not prove the host; no TLS with it
    robots_txt, opt_out        the site does not want it: robots.txt, X-Robots-Tag
    robots_unreachable         robots.txt fails with 5xx or not at all, which RFC 9309 reads as "disallow" for now
    too_many_redirects, http_404 (or any other status), bad_answer (not HTTP), no_ranges
    deadline, no_answer        too slow, as a whole or until the answer's first line
    truncated, too_large, content_encoding
    not_found, permission, not_a_file, storage    of files and object stores
    unexpected                 a fault of this program, named by its type
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class FetchFailure:
    """`reason` is a stable short name, `detail` a sentence, `retryable` whether asking again later may help."""

    reason: str
    detail: str
    retryable: bool = False


class Failed(Exception):
    """A failure on its way out.

    `wait` is what the server's Retry-After asked for, in seconds. `again` is False where this object's own retries
    cannot help although a later build may (`retryable`).
    """

    def __init__(
        self, reason: str, detail: str, *, retryable: bool = False, wait: float = 0.0, again: bool = True
    ) -> None:
        super().__init__(reason)
        self.failure = FetchFailure(reason, detail, retryable)
        self.wait = wait
        self.again = again and retryable
