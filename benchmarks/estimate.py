"""`looksay estimate` against what is measured: see docs/benchmarks/estimate.md.

python benchmarks/estimate.py bytes       parameters, states, activations, traffic of real engines
python benchmarks/estimate.py families    the same for a tiny model of every family, under every layout
python benchmarks/estimate.py machine     this machine's peaks, as doctor measures them
python benchmarks/estimate.py steps       step times at 1 and 2 ranks from those peaks
python benchmarks/estimate.py published   published large runs, constants of the packaged sites
python benchmarks/estimate.py command     CPU seconds of the command
"""

import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import tests.support.pool
from cluster.cost.estimate import Estimator, Setting
from configs.load import load_recipe, resolve
from configs.site import HardwareConfig, load_site
from tests.support.pool import Pool

RANK = "benchmarks.estimate_rank:"


def recipe_of(model: dict[str, Any], length: int, rows_per_step: int, **parts: dict[str, Any]) -> Any:
    """tiny_train with another model and packing."""
    tree = load_recipe("tiny_train").model_dump(mode="json")
    tree["model"] = model
    tree["data"]["packing"] |= {"length": length, "rows_per_step": rows_per_step}
    for name, values in parts.items():
        tree[name] = {**tree[name], **values}
    return resolve("benchmark", [("benchmark", tree)])


# ---- bytes ------------------------------------------------------------------------------------------------------


def compare_bytes() -> None:
    from tests.cluster.test_cost_measured import ALL, ENDINGS, LAYOUTS, PART

    pool = Pool()
    print("| ranks | TP | ZeRO | weights | trained | states | activations, worst | gathered | sent |")
    print("|---" * 9 + "|")
    for train in (ALL, PART):
        for ranks, tp, zero, precision in LAYOUTS:
            found = pool.run(
                "tests.cluster.cost_cases:measured", ranks, tp, zero=zero, precision=precision, train=train,
                changes=ENDINGS[(ranks + zero) % 2],
            )  # fmt: skip
            exact = all(a == b for one in found for a, b in one["states"])
            worst = max(abs(a / b - 1) for one in found for a, b in one["activations"])
            whole = all(one["gathered"][0] == one["gathered"][1] for one in found)
            sent = all(one["sent"][0] == one["sent"][1] for one in found)
            part = "all" if train is ALL else "part"
            print(
                f"| {ranks} | {tp} | {zero} | {precision} | {part} | {_exact(exact)} | {worst:.2%} | {_exact(whole)} | "
                f"{_exact(sent)} |",
                flush=True,
            )
    pool.close()


def _exact(yes: bool) -> str:
    return "exact" if yes else "DIFFERS"


# ---- step time --------------------------------------------------------------------------------------------------

VIT = {"type": "native_vit", "patch": 14, "width": 384, "depth": 6, "heads": 6, "mlp_width": 1536}
TINY_VIT = {"type": "native_vit", "patch": 14, "width": 128, "depth": 4, "heads": 4, "mlp_width": 384}
DECODER = {"layers": 6, "width": 512, "heads": 8, "kv_heads": 8, "mlp_width": 1408}
TINY = {"layers": 4, "width": 128, "heads": 4, "kv_heads": 2, "mlp_width": 352}
ALL = {"encoder": 1e-3, "projector": 1e-3, "decoder": 1e-3}
TOP = {"projector": 1e-3, "decoder": 1e-3}


def model_of(encoder: dict[str, Any], decoder: dict[str, Any]) -> dict[str, Any]:
    return {
        "encoder": encoder,
        "resolution": {"type": "native", "min_tokens": 4, "max_tokens": 64},
        "projector": {"type": "pixel_shuffle_mlp", "factor": 2},
        "decoder": decoder,
    }


def two_ranks() -> Pool:
    """A pool of two: more would stand in the way of what is timed."""
    tests.support.pool.SIZE = 2
    return Pool()


Case = tuple[str, dict[str, Any], int, int, int, str, dict[str, float], int, int, int]
CASES: list[Case] = [  # name, model, ranks, TP, ZeRO, weights, trained, length, rows a rank, micro-steps
    ("30 M", model_of(VIT, DECODER), 1, 1, 3, "bf16", ALL, 1024, 1, 2),
    ("30 M", model_of(VIT, DECODER), 2, 1, 3, "bf16", ALL, 1024, 1, 2),
    ("30 M", model_of(VIT, DECODER), 2, 1, 1, "bf16", ALL, 1024, 1, 2),
    ("30 M", model_of(VIT, DECODER), 2, 2, 1, "bf16", ALL, 1024, 1, 2),
    ("30 M, frozen encoder", model_of(VIT, DECODER), 2, 1, 3, "bf16", TOP, 1024, 1, 2),
    ("30 M", model_of(VIT, DECODER), 1, 1, 0, "fp32", ALL, 1024, 1, 1),
    ("tiny_train", model_of(TINY_VIT, TINY), 1, 1, 3, "bf16", ALL, 384, 4, 1),
    ("tiny_train", model_of(TINY_VIT, TINY), 2, 1, 3, "bf16", ALL, 384, 4, 1),
]


def measured_hardware(pool: Pool, ranks: int) -> tuple[HardwareConfig, dict[str, float]]:
    """`laptop` (its matmul_efficiency is kept) with this machine's peaks while `ranks` ranks measure at once."""
    found = pool.run(RANK + "machine", ranks)
    mean = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
    figures: dict[str, Any] = {
        "devices_per_node": ranks,
        "memory_gb": 10.0,
        "peak_tflops": {name: mean[name] / 1e12 for name in ("bf16", "fp32")},
        "matmul_efficiency": load_site("laptop").hardware.matmul_efficiency,
        "attention_efficiency": min(1.0, mean["attention"] / mean["fp32"]),
        "attention": "fp32",
        "memory_gb_per_s": mean["moving"] / 1e9,
        "memory_efficiency": 1.0,
        "launch_us": mean["launch"] * 1e6,
        "intra_node": {"gb_per_s": mean.get("link", 1e9) / 1e9, "latency_us": mean.get("hop", 0.0) * 1e6},
        "storage_gb_per_s": 1.0,
    }
    sources = dict.fromkeys(figures, "measured now")
    return HardwareConfig(kind="host", device="a core", sources=sources, **figures), mean


def compare_steps(only_machine: bool = False) -> None:
    pool = two_ranks()
    sites = {ranks: measured_hardware(pool, ranks) for ranks in (1, 2)}
    for ranks, (_, mean) in sites.items():
        print(f"{ranks} ranks, each: " + ", ".join(f"{name} {value:.4g}" for name, value in mean.items()))
    if only_machine:
        pool.close()
        return
    print("| model | ranks | TP | ZeRO | weights | measured s | estimate s | error |")
    print("|---" * 8 + "|")
    chosen = [CASES[int(n)] for n in sys.argv[2:]] or CASES
    for name, model, ranks, tp, zero, precision, train, length, rows, micro in chosen:
        found = pool.run(
            RANK + "step", ranks, tp, timeout=200.0, config=model, zero=zero, precision=precision, train=train,
            length=length, rows=rows, micro=micro,
        )  # fmt: skip
        dp = ranks // tp
        stage = {"train": train}
        parallel = {"zero": zero, "precision": precision, "tp": tp, "ranks": ranks, "rows_per_rank": rows}
        recipe = recipe_of(model, length, rows * micro * dp, stage=stage, parallel=parallel)
        first = found[0]
        hardware = sites[ranks][0].model_copy(update={"attention": first["attention"]})
        estimator = Estimator(recipe, hardware, 8000, first["rows"], first["math"], first["attention"])
        estimate = estimator.run(Setting(ranks, tp, zero, rows)).seconds
        seconds = max(one["seconds"] for one in found)
        print(
            f"| {name} | {ranks} | {tp} | {zero} | {precision} | {seconds:.3f} | {estimate.total:.3f} | "
            f"{estimate.total / seconds - 1:+.0%} |",
            flush=True,
        )
    pool.close()


# ---- the command ------------------------------------------------------------------------------------------------


def time_command() -> None:
    for more in ([], ["--json"], ["--search"], ["--simulate", "--ranks", "64", "--mtbf-hours", "50000"]):
        words = ["estimate", "tiny_train", "--site", "h100-8x", *more]
        seconds = []
        for _ in range(6):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-m", "pretrain.cli.main", *words], check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        ordered = sorted(seconds[1:])
        print(f"| `looksay {' '.join(words)}` | {ordered[len(ordered) // 2]:.2f} | {ordered[-1]:.2f} |")


def main() -> None:
    from benchmarks.estimate_families import compare_families
    from benchmarks.estimate_published import compare_published

    verbs: dict[str, Callable[[], None]] = {
        "bytes": compare_bytes,
        "families": compare_families,
        "machine": lambda: compare_steps(only_machine=True),
        "steps": compare_steps,
        "published": compare_published,
        "command": time_command,
    }
    if len(sys.argv) < 2 or sys.argv[1] not in verbs:
        sys.exit(__doc__)
    verbs[sys.argv[1]]()


if __name__ == "__main__":
    main()
