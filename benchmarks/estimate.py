"""`looksay estimate` against what is measured: see docs/benchmarks/estimate.md.

python benchmarks/estimate.py bytes       parameters, states, activations, traffic of real engines
python benchmarks/estimate.py families    the same for a tiny model of every family, under every layout
python benchmarks/estimate.py command     CPU seconds of the command
"""

import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import tests.support.pool
from configs.load import load_recipe, resolve
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


# ---- step time: models, which benchmarks/step_time.py times --------------------------------------------------------------------------------------------------

VIT = {"type": "native_vit", "patch": 14, "width": 384, "depth": 6, "heads": 6, "mlp_width": 1536}
TINY_VIT = {"type": "native_vit", "patch": 14, "width": 128, "depth": 4, "heads": 4, "mlp_width": 384}
DECODER = {"layers": 6, "width": 512, "heads": 8, "kv_heads": 8, "mlp_width": 1408}
TINY = {"layers": 4, "width": 128, "heads": 4, "kv_heads": 2, "mlp_width": 352}
SMALL = {"layers": 4, "width": 256, "heads": 4, "kv_heads": 2, "mlp_width": 704}
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
    tests.support.pool.START_SECONDS = 900.0  # on a machine that others use
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
    ("tiny_train", model_of(TINY_VIT, TINY), 1, 1, 0, "fp32", ALL, 384, 4, 1),
    ("tiny_train", model_of(TINY_VIT, TINY), 2, 2, 3, "bf16", ALL, 384, 4, 1),
    ("tiny_train", model_of(TINY_VIT, TINY), 2, 2, 0, "fp32", ALL, 384, 4, 1),
    ("5 M", model_of(TINY_VIT, SMALL), 1, 1, 3, "bf16", ALL, 512, 1, 2),
    ("5 M", model_of(TINY_VIT, SMALL), 2, 1, 0, "fp32", ALL, 512, 1, 2),
    ("5 M", model_of(TINY_VIT, SMALL), 2, 2, 3, "bf16", ALL, 512, 1, 2),
]


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

    verbs: dict[str, Callable[[], None]] = {
        "bytes": compare_bytes,
        "families": compare_families,
        "command": time_command,
    }
    if len(sys.argv) < 2 or sys.argv[1] not in verbs:
        sys.exit(__doc__)
    verbs[sys.argv[1]]()


if __name__ == "__main__":
    main()
