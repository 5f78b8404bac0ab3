"""What doctor measured as a site file: `looksay estimate --site FILE` computes with it. Every figure says how it was measured."""

import time
from typing import Any

HOW = "looksay doctor"
US, NS = 1e6, 1e9


def site_tree(found: dict[str, Any], memory_bytes: float, storage: float) -> dict[str, Any]:
    """{"hardware": ...} of configs/site.py.

    Args:
        found: what `measure` returns, of as many ranks as the node has devices (GPUs, or cores).
        memory_bytes: of one device (of a host: its share).
        storage: bytes per second that a checkpoint is written with.
    """
    hardware, ranks, kernels = found["hardware"], int(found["ranks"]), found["kernels"]
    gpu = hardware["device"] == "gpu"
    peaks = {name: max(sizes.values()) for name, sizes in found["products"].items()}
    moved = found["moved"]
    highest = max(*moved.values(), *(one["moving"] for one in kernels.values()))
    # A precision whose products run in another dtype here (bf16 where the device is slow at it) says nothing of its own.
    by_type = {one["math"]: one for name, one in sorted(kernels.items(), key=lambda item: item[0] == item[1]["math"])}
    links = found["collectives"] or {"latency": 0.0, "all_reduce": 1e12, "all_gather": 1e12}
    link = 2 / (1 / links["all_reduce"] + 1 / links["all_gather"])
    dtype = kernels["bf16"]["attention_dtype"]
    slow = peaks[dtype] if dtype in peaks else max(peaks.values())
    figures: dict[str, tuple[Any, str]] = {
        "devices_per_node": (ranks, "this machine"),
        "nodes": (1, "this machine"),
        "memory_gb": (memory_bytes / 1e9, "what is there, shared out over the devices"),
        "reserved_gb": (3.0 if gpu else 0.6, "allowance: a process with torch, DeepSpeed and Megatron-core loaded"),
        "fragmentation": (0.08 if gpu else 0.05, "allowance for the allocator"),
        "peak_tflops": ({n: p / 1e12 for n, p in peaks.items()}, "fastest square product of 128 to 2048 (peaks.py)"),
        "matmul_efficiency": (
            {name: min(1.0, one["linear"] / peaks[name]) for name, one in by_type.items()},
            "the model's linears, forward and backward, against it (kernels.py)",
        ),
        "attention_efficiency": (
            min(1.0, _mean([one["attention"] for one in kernels.values()]) / slow),
            "attention in segments of 32 to 256, 8 heads of 64 and 4 of 32, forward and backward, against it (kernels.py)",
        ),
        "memory_gb_per_s": (highest / 1e9, "sums of 2 MB arrays (peaks.py)"),
        "memory_efficiency": (
            {name: one["moving"] / highest for name, one in by_type.items()},
            "norm and gated activation, forward and backward, against it (kernels.py)",
        ),
        "launch_us": (
            _mean([one["launch"] for one in kernels.values()]) * US,
            "the same on 8 x 64 values (kernels.py)",
        ),
        "host_ms": (5.0, "allowance for the loop, its records and the batch"),
        "intra_node": (
            {"gb_per_s": link / 1e9, "latency_us": links["latency"] / 2 * US},
            "all-reduce and all-gather between the ranks; half of a tiny all-reduce (peaks.py)",
        ),
        "overlap": (0.7 if gpu else 0.0, "allowance" if gpu else "collectives take the cores that would compute"),
        "storage_gb_per_s": (storage / 1e9, "a file written and synced (storage.py)"),
        "restart_minutes": (1.0, "allowance: processes start, the plan and a checkpoint are read"),
    }
    if not gpu:  # on a GPU the host runs ahead, and its work is hidden
        figures["engine"] = (
            {int(stage): _engine(cost) for stage, cost in found["engine"].items()},
            "stacks of linears under the engine against the same without it (hooks.py)",
        )
    made = f", {HOW} on {time.strftime('%Y-%m-%d')}, {ranks} ranks of {int(found['threads'])} threads at once"
    return {
        "hardware": {
            "kind": "gpu" if gpu else "host",
            "device": hardware["name"] if gpu else f"a core of {hardware['name']}",
            "attention": dtype,
            **{name: _rounded(value) for name, (value, _) in figures.items()},
            "sources": {name: said + made for name, (_, said) in figures.items()},
        }
    }


def _engine(cost: dict[str, float]) -> dict[str, float]:
    return {
        "parameter_us": cost["parameter"] * US,
        "module_us": cost["module"] * US,
        "element_ns": cost["element"] * NS,
        "update_us": cost["update_parameter"] * US,
        "update_ns": max(1e-3, cost["update_element"] * NS),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _rounded(value: Any) -> Any:
    """Four digits: more were not measured."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
