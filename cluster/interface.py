"""Which network interface leads to the other nodes, and the settings of communication that a log should name."""

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Mapping, Sequence

SIOCGIFADDR = 0x8915
TOLD = ("NCCL_", "GLOO_", "FI_", "UCX_", "TORCH_NCCL_", "OMP_", "MKL_NUM_", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_MAX")


def address_towards(host: str) -> str | None:
    """This machine's address on the way to `host`; None where its name or the way is not known. Nothing is sent."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return None


def interface_towards(hosts: Sequence[str], own: str) -> str | None:
    """The interface that the other nodes are reached by; None where that cannot be found out (IPv6 alone, no route).

    A name that leads to loopback says nothing: Debian gives a machine's own name 127.0.1.1, and gloo would listen there.
    """
    for host in [*(host for host in hosts if host != own), own]:
        address = address_towards(host)
        if address is None or address.startswith("127.") or ":" in address:
            continue
        for _, name in socket.if_nameindex():
            if _address_of(name) == address:
                return name
    return None


def _address_of(interface: str) -> str | None:
    """The IPv4 address of an interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        asked = struct.pack("256s", interface[:15].encode())
        return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), SIOCGIFADDR, asked)[20:24])
    return None


def settings_of(environ: Mapping[str, str]) -> str:
    """Settings of NCCL, gloo and threads that are set, as one line for a log."""
    found = [f"{name}={environ[name]}" for name in sorted(environ) if name.startswith(TOLD)]
    return ", ".join(found) or "none set"


def cores() -> int:
    """Cores that this process may use: a scheduler gives a job some of the machine's."""
    return max(1, len(os.sched_getaffinity(0)))
