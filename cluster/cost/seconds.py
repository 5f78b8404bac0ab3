"""Seconds of a step: kernels on a roofline, then what collectives leave exposed, the update and the host.

A kernel takes the larger of its FLOPs at the site's efficiency and its bytes at the site's bandwidth, and a launch. A
micro-step takes as long as its slowest rank (ZeRO and TP are lockstep), which `imbalance` stands for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.cost.network import seconds_of
from cluster.cost.traffic import Message
from cluster.cost.work import OPTIMIZER_BYTES, Kernel, Pass
from configs.site import HardwareConfig


@dataclass(frozen=True)
class Device:
    """What one rank computes with. On a CPU site ranks share a node's cores."""

    peak: float
    """FLOP/s of matrix products in the math dtype."""
    matmul: float
    attention: float
    """FLOP/s that matrix products and attention reach."""
    moving: float
    """Bytes per second that elementwise kernels reach."""
    launch: float


def device_of(hardware: HardwareConfig, math: str, attention: str, share: float = 1.0) -> Device:
    """One rank's device; `share`: devices that a rank has (above 1 where few ranks share a CPU)."""
    peaks = hardware.peak_tflops
    peak = peaks.get("bf16" if math == "bf16" else "fp32") or max(peaks.values())
    slow = peaks.get("bf16" if attention == "bf16" else "fp32") or peak
    return Device(
        peak * 1e12 * share,
        peak * 1e12 * share * hardware.matmul_efficiency,
        slow * 1e12 * share * hardware.attention_efficiency,
        hardware.memory_gb_per_s * 1e9 * share * hardware.memory_efficiency,
        hardware.launch_us * 1e-6,
    )


def kernel_seconds(kernel: Kernel, device: Device) -> float:
    computing = kernel.matrix / device.matmul + kernel.attention / device.attention
    return max(computing, kernel.moved / device.moving) + kernel.kernels * device.launch


@dataclass(frozen=True)
class MicroSeconds:
    """Seconds of one micro-step's compute, by part and pass."""

    forward: dict[str, float]
    backward: dict[str, float]
    again: float
    """Forward of blocks once more, where activations are checkpointed (0 else)."""

    @property
    def total(self) -> float:
        return sum(self.forward.values()) + sum(self.backward.values()) + self.again


def micro_seconds(made: Sequence[Pass], device: Device, recompute: bool = False) -> MicroSeconds:
    """Seconds of one micro-step's compute on one rank."""
    forward: dict[str, float] = {}
    backward: dict[str, float] = {}
    again = 0.0
    for one in made:
        ahead = one.count * sum(kernel_seconds(kernel, device) for kernel in one.forward)
        back = one.count * sum(kernel_seconds(kernel, device) for kernel in one.backward)
        forward[one.part] = forward.get(one.part, 0.0) + ahead
        backward[one.part] = backward.get(one.part, 0.0) + back
        again += ahead if recompute and one.block and one.backward else 0.0
    return MicroSeconds(forward, backward, again)


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of an optimizer step on the slowest rank."""

    compute: float
    waiting: float
    """For ranks with more to do in the same micro-step."""
    exposed: float
    """Collectives that nothing hides."""
    hidden: float
    update: float
    host: float

    @property
    def total(self) -> float:
        return self.compute + self.waiting + self.exposed + self.update + self.host


def step_seconds(
    micro: MicroSeconds,
    micro_steps: int,
    messages: Sequence[Message],
    hardware: HardwareConfig,
    device: Device,
    tp: int,
    dp: int,
    devices_per_node: int,
    updated: float,
    imbalance: float = 0.0,
) -> StepSeconds:
    """A whole step.

    Args:
        messages: of the whole step.
        updated: elements that this rank's optimizer updates.
        imbalance: mean over micro-steps of (slowest rank / mean rank - 1).
    """
    compute = micro.total * micro_steps
    beside = sum(seconds_of(m, hardware, tp, dp, devices_per_node) for m in messages if m.overlaps)
    alone = sum(seconds_of(m, hardware, tp, dp, devices_per_node) for m in messages if not m.overlaps)
    hidden = min(beside, hardware.overlap * compute)
    update = updated * OPTIMIZER_BYTES / device.moving
    return StepSeconds(compute, compute * imbalance, alone + beside - hidden, hidden, update, hardware.host_ms * 1e-3)
