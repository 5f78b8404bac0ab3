"""Seconds of a collective on a site's links: rings for bandwidth, trees for latency (Thakur et al. 2005).

A group that spans nodes pays the slower of two paths: inside nodes over `intra_node`, and between them, where the
members of one node share out what their devices' network adapters carry.
"""

from math import ceil, log2

from cluster.cost.traffic import Message, wire_bytes
from configs.site import HardwareConfig

US = 1e-6


def group_shape(group: str, tp: int, dp: int, devices_per_node: int) -> tuple[int, int]:
    """(ranks, members on one node) of a group. TP ranks are neighbours."""
    if group == "tp":
        return tp, min(tp, devices_per_node)
    if group == "world":
        return tp * dp, min(tp * dp, devices_per_node)
    return dp, max(1, min(dp, devices_per_node // tp))


def seconds_of(message: Message, hardware: HardwareConfig, tp: int, dp: int, devices_per_node: int) -> float:
    """What all calls of a message take on an idle network."""
    ranks, local = group_shape(message.group, tp, dp, devices_per_node)
    if ranks == 1 or message.payload == 0:
        return 0.0
    nodes = ceil(ranks / local)
    intra, inter = hardware.intra_node, hardware.inter_node or hardware.intra_node
    times = 2 if message.operation == "all_reduce" else 1
    hops = ceil(log2(local)) * intra.latency_us + (ceil(log2(nodes)) * inter.latency_us if nodes > 1 else 0)
    latency = message.calls * times * hops * US
    inside = wire_bytes(message.operation, message.payload, ranks) / (intra.gb_per_s * 1e9) if local > 1 else 0.0
    if nodes == 1:
        return latency + inside
    between = wire_bytes(message.operation, message.payload, nodes) / (local * inter.gb_per_s * 1e9)
    return latency + max(inside, between)
