"""The connection pool: idle connections are kept for the next picture of a host, up to a bound on open sockets.

A list of a million hosts would leave a socket behind at each until its keep-alive time is over; beyond `max_idle`, new
connections are closed after their answer instead.
"""

import asyncio
import functools
import os
import ssl

import aiohttp
from aiohttp.client_proto import ResponseHandler

from configs.errors import UserError
from configs.ingest import FetchConfig
from data_pipeline.ingest.fetch.guard import Guard

KEEP_ALIVE_SECONDS = 15.0
_HEADER_BYTES = 32 * 1024
_READ_BUFFER = 2**18


def tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """Verifies certificates and hosts against the system's authorities, and those of `ca_bundle` (PEM) beside them.

    Made once per process: reading the authorities costs tens of milliseconds.

    Raises:
        UserError: the file is missing or holds no certificate.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if ca_bundle is not None:
        try:
            context.load_verify_locations(cafile=os.path.expanduser(ca_bundle))
        except (OSError, ssl.SSLError) as error:
            raise UserError(
                f"fetch.ca_bundle {ca_bundle!r} cannot be used ({error.strerror or 'no certificate in it'}): "
                "give a PEM file of the authorities to trust"
            ) from None
    return context


class Connection(ResponseHandler):
    """One that is not used again once the server sent something that nobody asked for.

    aiohttp would take it for the answer to the next request, so that one picture too many would give each later row of
    the host its neighbour's picture.
    """

    def is_connected(self) -> bool:
        return super().is_connected() and not len(self) and self.exception() is None


class Pool:
    """Made and used in one event loop. `guard` makes every socket and looks up every name."""

    def __init__(self, config: FetchConfig, context: ssl.SSLContext, guard: Guard) -> None:
        self._guard = guard
        self._max_open = 2 * config.concurrency + 128
        self._lasting = _session(config, context, guard, lasting=True)
        self._passing = _session(config, context, guard, lasting=False)

    def session(self) -> aiohttp.ClientSession:
        """The one to send the next request with."""
        return self._passing if self._guard.is_crowded(self._max_open) else self._lasting

    def fresh(self) -> aiohttp.ClientSession:
        """One whose connections serve a single request each."""
        return self._passing

    async def close(self) -> None:
        await self._lasting.close()
        await self._passing.close()


def _session(config: FetchConfig, context: ssl.SSLContext, guard: Guard, *, lasting: bool) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        ssl=context,
        resolver=guard,
        socket_factory=guard.make_socket,
        limit=0,  # the schedule bounds the pictures in flight
        limit_per_host=config.per_host,
        dns_cache_max_size=10_000,
        ttl_dns_cache=guard.name_seconds,
        **({"keepalive_timeout": KEEP_ALIVE_SECONDS} if lasting else {"force_close": True}),
    )
    # aiohttp has no setting for this; tests/.../test_hostile.py shows if it stops working.
    connector._factory = functools.partial(Connection, loop=asyncio.get_running_loop())  # type: ignore[assignment]
    return aiohttp.ClientSession(
        connector=connector,
        headers={
            "User-Agent": config.user_agent,
            "Accept": "image/*,*/*;q=0.8",
            "Accept-Encoding": "identity",
        },
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=_READ_BUFFER,
        max_line_size=_HEADER_BYTES,
        max_field_size=_HEADER_BYTES,
    )
