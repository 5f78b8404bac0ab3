"""Seconds of a step: kernels on a roofline, then what collectives leave exposed, the update and the host.

A product takes the larger of its FLOPs at the site's efficiency and its bytes at the site's bandwidth; what kernels of
their own move beside it, and launches, come on top. A micro-step takes as long as its slowest rank (ZeRO and TP are lockstep), which `imbalance` stands for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.cost.network import seconds_of
from cluster.cost.parts import Model
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
        peak * 1e12 * share * hardware.share(hardware.matmul_efficiency, math),
        slow * 1e12 * share * hardware.attention_efficiency,
        hardware.memory_gb_per_s * 1e9 * share * hardware.share(hardware.memory_efficiency, math),
        hardware.launch_us * 1e-6,
    )


def kernel_seconds(kernel: Kernel, device: Device) -> float:
    computing = kernel.matrix / device.matmul + kernel.attention / device.attention
    return max(computing, kernel.moved / device.moving) + kernel.beside / device.moving + kernel.kernels * device.launch


@dataclass(frozen=True)
class Around:
    """Seconds that the engine takes around the work of a rank: in each micro-step, and in the update."""

    micro: float
    update: float


def around(model: Model, hardware: HardwareConfig, zero: int, dp: int) -> Around | None:
    """Where the site says what the engine takes under this ZeRO stage (1 and 2 alike); else None."""
    cost = hardware.engine.get(zero) or (hardware.engine.get(1) if zero == 2 else None)
    if cost is None:
        return None
    trained = [p.weight.local(model.tp) for p in model.weights if p.trained]
    modules = sum(1 if m.leaf else sum(bool(op.weights()) for op in m.ops) for m in model.modules)
    elements = float(sum(trained))
    micro = len(trained) * cost.parameter_us * 1e-6 + elements * cost.element_ns * 1e-9
    micro += modules * cost.module_us * 1e-6 if zero == 3 else 0.0
    mine = elements / (dp if zero else 1)
    return Around(micro, len(trained) * cost.update_us * 1e-6 + mine * cost.update_ns * 1e-9)


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
    engine: float = 0.0
    """What the engine takes around the work of micro-steps."""

    @property
    def total(self) -> float:
        return self.compute + self.waiting + self.exposed + self.update + self.host + self.engine


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
    engine: Around | None = None,
) -> StepSeconds:
    """A whole step.

    Args:
        messages: of the whole step.
        updated: elements that this rank's optimizer updates.
        imbalance: mean over micro-steps of (slowest rank / mean rank - 1).
        engine: seconds around the work, where they are known; they replace the update by bytes.
    """
    compute = micro.total * micro_steps
    beside = sum(seconds_of(m, hardware, tp, dp, devices_per_node) for m in messages if m.overlaps)
    alone = sum(seconds_of(m, hardware, tp, dp, devices_per_node) for m in messages if not m.overlaps)
    hidden = min(beside, hardware.overlap * compute)
    update = updated * OPTIMIZER_BYTES / device.moving if engine is None else engine.update
    host = hardware.host_ms * 1e-3
    hooks = 0.0 if engine is None else engine.micro * micro_steps
    return StepSeconds(compute, compute * imbalance, alone + beside - hidden, hidden, update, host, hooks)
