"""Seconds of a training step: `looksay estimate` with a site that `looksay doctor` wrote, against `looksay train`.

python benchmarks/step_time.py [--site FILE] [--folder FOLDER] [--only N ...]

Doctor measures this machine (or --site takes what it wrote before); each recipe is estimated, then trained for some steps
by the command as users call it. What stands is CPU seconds a step of the busiest rank, each of one thread on its own core: on an
idle machine they are wall seconds (gloo waits without spinning), and on a shared one company counts for less. Beside them the
fastest step on the wall clock. --engine leaves command, loader and records out: real engines, the cheapest of some steps.
docs/benchmarks/step_time.md has results.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.support.datasets import samples, write_dataset

STEPS, SKIPPED = 24, 4
"""The first steps are left out: ZeRO-3 learns its order, workers start."""

MEDIUM = {
    "model.encoder.width": 256, "model.encoder.depth": 4, "model.encoder.heads": 4, "model.encoder.mlp_width": 1024,
    "model.decoder.layers": 6, "model.decoder.width": 384, "model.decoder.heads": 6, "model.decoder.kv_heads": 6,
    "model.decoder.mlp_width": 1024, "data.packing.length": 1024, "data.packing.rows_per_step": 4, "parallel.rows_per_rank": 1,
}  # fmt: skip
SMALL = {**MEDIUM, "model.decoder.layers": 4, "model.decoder.width": 256, "model.decoder.heads": 4,
         "model.decoder.kv_heads": 2, "model.decoder.mlp_width": 704, "data.packing.length": 512}  # fmt: skip
CASES: list[tuple[str, dict[str, Any], int, int, int, str]] = [  # name, changes, ranks, TP, ZeRO, weights
    ("tiny_train", {}, 2, 1, 3, "bf16"),
    ("tiny_train", {}, 2, 1, 0, "fp32"),
    ("tiny_train", {}, 2, 2, 1, "bf16"),
    ("small", SMALL, 2, 1, 3, "bf16"),
    ("small", SMALL, 2, 1, 0, "fp32"),
    ("small", SMALL, 2, 2, 3, "bf16"),
    ("medium", MEDIUM, 2, 1, 3, "bf16"),
    ("medium", MEDIUM, 2, 1, 0, "fp32"),
    ("medium", MEDIUM, 2, 2, 0, "fp32"),
]


def looksay(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "pretrain.cli.main", *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"looksay {' '.join(words)}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done.stdout


def prepare(folder: Path) -> list[str]:
    """Data and tokenizer; returns the words that point a recipe to them."""
    data, tokens = folder / "data", folder / "tokens"
    if not tokens.exists():
        write_dataset(data, samples(600, 0, sizes=((112, 84), (168, 112), (140, 140), (84, 168), (196, 140))))
        looksay("data", "tokenizer", str(data), "--out", str(tokens), "--vocab", "1024")
    return ["--set", f"data.sources=[{{path: {data}}}]", "--set", f"data.tokenizer={tokens}"]


def train_watched(run: Path, words: list[str]) -> float:
    """Train; returns CPU seconds a step of the busiest rank: the lower quartile of the steps from SKIPPED to the last but one."""
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "pretrain.cli.main", "train", "tiny_train", "--run", str(run), *words]
    seen: list[tuple[int, dict[int, float]]] = []
    with (
        (run.parent / f"{run.name}.log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        while process.poll() is None:
            step = steps_in(run / "metrics.jsonl")
            if SKIPPED <= step < STEPS and (not seen or step > seen[-1][0]):
                seen.append((step, {rank: cpu_seconds(rank) for rank in ranks_below(process.pid)}))
            time.sleep(0.02)
    if process.returncode or len(seen) < 2:
        sys.exit(f"training failed: {(run.parent / f'{run.name}.log').read_text()[-2000:]}")
    each = []
    for (first, before), (last, after) in pairwise(seen):
        each.append(max((after[rank] - before[rank]) / (last - first) for rank in before if rank in after))
    return sorted(each)[len(each) // 4]


def steps_in(metrics: Path) -> int:
    return metrics.read_bytes().count(b'"seconds"') if metrics.exists() else 0


def ranks_below(launcher: int) -> list[int]:
    """Processes that were forked from the warm process of a launcher."""
    parents = {int(path.name): parent_of(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
    warm = {pid for pid, parent in parents.items() if parent == launcher}
    return [pid for pid, parent in parents.items() if parent in warm]


def parent_of(process: Path) -> int:
    fields = fields_of(process)
    return int(fields[1]) if fields else 0


def cpu_seconds(pid: int) -> float:
    fields = fields_of(Path(f"/proc/{pid}"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def fields_of(process: Path) -> list[str]:
    """Of /proc/PID/stat behind the name; none where it is gone."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def run_case(number: int, site: str, folder: Path, words: list[str]) -> dict[str, Any]:
    name, changes, ranks, tp, zero, precision = CASES[number]
    settings = {
        **changes, "parallel.ranks": ranks, "parallel.tp": tp, "parallel.zero": zero, "parallel.precision": precision,
        "data.packing.window_steps": 16, "stage.steps": STEPS, "checkpoint.every": 1000, "optim.warmup_steps": 2,
    }  # fmt: skip
    words = [*words, *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))]
    told = ["estimate", "tiny_train", "--site", site, "--ranks", str(ranks), "--json", *words]
    estimate = json.loads(looksay(*told))
    simulated = json.loads(looksay(*told, "--simulate", "--mtbf-hours", "1e6", "--steps", "50"))["step_seconds"]
    run = folder / f"run-{number}"
    measured = train_watched(run, words)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    fastest = min(row["seconds"]["total"] for row in rows if "seconds" in row and row["step"] > SKIPPED)
    return {
        "name": name, "ranks": ranks, "tp": tp, "zero": zero, "weights": precision,
        "parameters": sum(row["whole"] for row in estimate["parameters"].values()),
        "measured": measured, "fastest": fastest,
        "estimate": estimate["seconds"]["total"], "parts": estimate["seconds"], "simulated": simulated["mean"],
    }  # fmt: skip


HEAD = "| recipe | M parameters | ranks | TP | ZeRO | weights | CPU s a step | on the wall | estimate s | error | simulator |"


def command_rows(site: str, folder: Path, chosen: list[int]) -> list[float]:
    """Errors of the estimate for the command's runs, each printed as a row."""
    words, errors = prepare(folder), []
    for number in chosen:
        found = run_case(number, site, folder, words)
        error, simulator = (found[key] / found["measured"] - 1 for key in ("estimate", "simulated"))
        errors.append(abs(error))
        print(
            f"| {found['name']} | {found['parameters'] / 1e6:.1f} | {found['ranks']} | {found['tp']} | {found['zero']} | "
            f"{found['weights']} | {found['measured']:.3f} | {found['fastest']:.3f} | {found['estimate']:.3f} | {error:+.0%} | "
            f"{simulator:+.0%} |",
            flush=True,
        )
        print("  " + ", ".join(f"{k} {value:.3f}" for k, value in found["parts"].items()), file=sys.stderr, flush=True)
    return errors


def engine_rows(site: str, chosen: list[int]) -> list[float]:
    """The same for real engines without loader and records; the simulator has no jitter."""
    from benchmarks.estimate import CASES as ENGINES
    from benchmarks.estimate import RANK, recipe_of, two_ranks
    from cluster.cost.estimate import Estimator, Setting
    from cluster.cost.simulate import step_times
    from configs.site import load_hardware

    pool, errors = two_ranks(), []
    for number in chosen:
        name, model, ranks, tp, zero, precision, train, length, rows, micro = ENGINES[number]
        found = pool.run(
            RANK + "step", ranks, tp, timeout=400.0, config=model, zero=zero, precision=precision, train=train,
            length=length, rows=rows, micro=micro, steps=5,
        )  # fmt: skip
        parallel = {"zero": zero, "precision": precision, "tp": tp, "ranks": ranks, "rows_per_rank": rows}
        recipe = recipe_of(model, length, rows * micro * (ranks // tp), stage={"train": train}, parallel=parallel)
        first = found[0]
        hardware = load_hardware(site).model_copy(update={"devices_per_node": ranks, "host_ms": 0.0})
        estimator = Estimator(recipe, hardware, 8000, first["rows"], first["math"], first["attention"])
        estimate = estimator.run(Setting(ranks, tp, zero, rows))
        seconds = max(one["seconds"] for one in found)
        simulated = step_times(estimator, estimate, 20, 0)[0]
        errors.append(abs(estimate.seconds.total / seconds - 1))
        size = sum(placed.weight.size for placed in estimate.model.weights)
        print(
            f"| {name} | {size / 1e6:.1f} | {ranks} | {tp} | {zero} | {precision} | {seconds:.3f} | - | "
            f"{estimate.seconds.total:.3f} | {estimate.seconds.total / seconds - 1:+.0%} | "
            f"{sum(simulated) / len(simulated) / seconds - 1:+.0%} |",
            flush=True,
        )
        parts = (
            vars(estimate.seconds)
            | estimate.micro.forward
            | {f"{k} back": v for k, v in estimate.micro.backward.items()}
        )
        print("  " + ", ".join(f"{k} {value:.3f}" for k, value in parts.items()), file=sys.stderr, flush=True)
    pool.close()
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site")
    parser.add_argument("--folder", default=tempfile.gettempdir() + "/looksay-step-time")
    parser.add_argument("--engine", action="store_true")
    parser.add_argument("--only", type=int, nargs="*")
    args = parser.parse_args()
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    site = args.site or str(folder / "site.yaml")
    if args.site is None:
        looksay("doctor", "--write-site", site, "--storage", str(folder))
    print(HEAD)
    print("|---" * 11 + "|")
    chosen = args.only if args.only is not None else list(range(14 if args.engine else len(CASES)))
    errors = engine_rows(site, chosen) if args.engine else command_rows(site, folder, chosen)
    within = [sum(error <= limit for error in errors) for limit in (0.15, 0.25)]
    print(f"\n{within[1]} of {len(errors)} within 25 %, {within[0]} within 15 %")


if __name__ == "__main__":
    main()
