"""Which addresses may be connected to: a URL, or a host's addresses -> the same, or `Failed("private_address")`.

A URL out of somebody's data must not reach this machine, its network, or the service that hands out a cloud's keys.
Names say nothing (whoever owns a name chooses its address, and may change it between two questions), so the address
itself is checked, at the last moment: `Guard.make_socket` is asked for the socket of each connection with the very
address that it will go to. The host's name stays in the URL, so `Host` and SNI are what the server expects.
"""

import asyncio
import functools
import ipaddress
import socket
import time
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from data_pipeline.ingest.fetch.failure import Failed
from data_pipeline.ingest.fetch.threads import Threads

UNKNOWN_HOST_SECONDS = 60.0
"""A host that does not exist is not asked for again so soon: URL lists name dead hosts many times."""

_UNKNOWN_HOSTS = 10_000
_NOT_THERE = {getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA") if hasattr(socket, name)}


def _networks(text: str) -> tuple[Any, ...]:
    return tuple(ipaddress.ip_network(word) for word in text.split())


# IANA's special-purpose registries, written out: what `ipaddress` calls global differs among Python's versions.
_PRIVATE = _networks(
    "10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 "
    "192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4"
)
_PUBLIC_6 = ipaddress.ip_network("2000::/3")
_PRIVATE_6 = _networks("2001::/23 2001:db8::/32 2002::/16 3fff::/20")  # protocols and Teredo, documentation, 6to4
_NEVER = _networks("0.0.0.0/8 224.0.0.0/4 255.255.255.255/32 ::/128 ff00::/8")
_METADATA = _networks("169.254.169.254/32 169.254.170.2/32 100.100.100.200/32 168.63.129.16/32 fd00:ec2::254/128")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@functools.lru_cache(maxsize=4096)
def may_connect(address: str, allow_private: bool = False) -> bool:
    """Whether an address (not a name) may be connected to.

    `allow_private` opens private, loopback and link-local networks; never "this host", multicast and broadcast, nor the
    addresses at which clouds hand out keys. An IPv4 address inside an IPv6 one (mapped, NAT64) counts as itself.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        if inner is not None:
            ip = inner
    if any(ip in network for network in _NEVER + _METADATA):
        return False
    if allow_private:
        return True
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _PRIVATE)
    return ip in _PUBLIC_6 and not any(ip in network for network in _PRIVATE_6)


@dataclass(frozen=True)
class Network:
    """The world as the tests of the guard see it; no recipe reaches this.

    `resolve` maps a host's name to addresses, which are believed for `name_seconds`; `may_connect` takes the place of
    the rule above.
    """

    resolve: Callable[[str], Awaitable[list[str]]] | None = None
    may_connect: Callable[[str], bool] | None = None
    name_seconds: int = 60


class Refused(OSError):
    """An address that is not to be connected to; an OSError, as aiohttp carries these out of a connection attempt."""

    def __init__(self, host: str, address: str) -> None:
        super().__init__(f"{host} is {address}")
        self.host, self.address = host, address

    def failed(self) -> Failed:
        return private(self.host, self.address)


def private(host: str, address: str) -> Failed:
    what = address if host == address else f"{host} is {address}, which"
    return Failed("private_address", f"{what} is not a public address")


class Guard(AbstractResolver):
    """Resolver and socket factory of the connection pool."""

    def __init__(self, allow_private: bool, threads: Threads, network: Network | None = None) -> None:
        network = network or Network()
        self.name_seconds = network.name_seconds
        self.may_connect = network.may_connect or (lambda address: may_connect(address, allow_private))
        self._resolve = network.resolve or self._ask_system
        self._threads = threads
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def is_crowded(self, most: int) -> bool:
        """Whether more than `most` sockets are open, idle ones too."""
        if len(self._sockets) > most:  # closed ones wait for the garbage collector in there
            self._sockets = weakref.WeakSet(one for one in self._sockets if one.fileno() >= 0)
        return len(self._sockets) > most

    def make_socket(self, addr_info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        """The socket of a connection to `addr_info`. Refused: that address may not be connected to."""
        family, kind, protocol, _, address = addr_info
        if not self.may_connect(address[0]):
            raise Refused(address[0], address[0])
        made = socket.socket(family, kind, protocol)
        self._sockets.add(made)
        return made

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Those of the host's addresses that may be connected to. Refused: none of them; gaierror: there is none."""
        if self._unknown.get(host, 0.0) > time.monotonic():
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        try:
            addresses = await self._resolve(host)
        except socket.gaierror as error:
            if error.errno in _NOT_THERE:
                self._unknown[host] = time.monotonic() + UNKNOWN_HOST_SECONDS
                self._unknown.move_to_end(host)
                if len(self._unknown) > _UNKNOWN_HOSTS:
                    self._unknown.popitem(last=False)
            raise
        public = [address for address in addresses if self.may_connect(address)]
        if not public:
            raise Refused(host, min(addresses, default="nowhere"))
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in public
        ]

    async def _ask_system(self, host: str) -> list[str]:
        found = await asyncio.wrap_future(
            self._threads.submit(
                lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            )
        )
        return [str(address[0]) for *_, address in found]

    async def close(self) -> None:
        """Nothing of its own to close."""


def is_unknown_host(error: OSError) -> bool:
    """Whether a failed look-up says that there is no such host, rather than that nobody answered."""
    return isinstance(error, socket.gaierror) and error.errno in _NOT_THERE
