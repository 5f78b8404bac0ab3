"""Packing: fill, waiting, steps, mixtures and speed of the production planner, beside what other systems do.

    python -m venv benchmarks/.cache/packing_peers
    benchmarks/.cache/packing_peers/bin/pip install binpacking==2.0.1 grain==0.2.18
    python benchmarks/packing.py all --lengths real.npz laion.npz sft.npz [--score score.py]

A length set holds `tokens`, `vision` and `vision_unit` (how much vision is a tile of 1024 patches). Parts of `all`:
`fill` (ours and peers'), `ranks` (one plan at any DP), `steps` (what optimizer steps differ in), `mixture`, `start`.
`--score` also judges each of our plans by that script, which must say the same.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.stream.plan import window as window_module
from data_pipeline.stream.plan.bare import BareLengths, LengthSet, pack_epoch, plan_columns
from data_pipeline.stream.plan.order import Order
from data_pipeline.stream.plan.score import TILE, Loads, balance, fill
from data_pipeline.stream.plan.window import PlanSettings

ROOT = Path(__file__).resolve().parent
PEERS = ROOT / ".cache" / "packing_peers" / "bin" / "python"
LENGTHS = (4096, 8192, 16384)
WINDOW, CHUNK = 4096, 64
SLOW = {"torchtitan (grain), 8 bins": 10_000}
"""Peers that are shown only so many samples: their buffers hold far fewer."""
RUNS = 3


@dataclass
class Plan:
    """Rows in the order of training: samples, the row of each, loads of rows; seconds of pack + arrange and of all."""

    sample: np.ndarray
    pack: np.ndarray
    loads: Loads
    kernel: float = 0.0
    seconds: float = 0.0
    text: Any = None
    """[samples] True where it has no picture."""
    source: Any = None
    """[samples] True where it is of the second source of a mixture."""


def repeated(lengths: LengthSet, times: int) -> LengthSet:
    """`times` as many samples, drawn from the set."""
    chosen = np.random.default_rng(0).integers(0, len(lengths.tokens), len(lengths.tokens) * times)
    return LengthSet(lengths.tokens[chosen], lengths.vision[chosen], lengths.vision_unit)


def loads_of(lengths: LengthSet, sample: np.ndarray, pack: np.ndarray) -> Loads:
    starts = np.concatenate([np.flatnonzero(np.diff(pack, prepend=-1)), [len(pack)]])
    patches = lengths.vision[sample] * (TILE / lengths.vision_unit)
    return Loads.of(lengths.tokens[sample].astype(np.int32), patches.astype(np.int32), starts.astype(np.int64))


def planned(lengths: LengthSet, length: int, rows_per_step: int = 512, runs: int = RUNS) -> Plan:
    """One epoch by the production planner; the fastest run counts."""
    settings = PlanSettings(length, rows_per_step, WINDOW // rows_per_step, CHUNK)
    kernels = (window_module.pack, window_module.arrange)
    spent = [0.0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            found = function(*args, **options)
            spent[0] += time.perf_counter() - start
            return found

        return run

    best = (np.inf, np.inf)
    window_module.pack, window_module.arrange = (timed(kernel) for kernel in kernels)
    try:
        for _ in range(runs):
            spent[0], start = 0.0, time.perf_counter()
            windows = list(pack_epoch(lengths, settings, seed=0))
            best = min(best, (spent[0], time.perf_counter() - start))
    finally:
        window_module.pack, window_module.arrange = kernels
    columns = plan_columns(iter(windows))
    loads, text = loads_of(lengths, **columns), lengths.vision[columns["sample"]] == 0
    return Plan(**columns, loads=loads, kernel=best[0], seconds=best[1], text=text)


def draw_order(lengths: LengthSet, length: int) -> np.ndarray:
    """Samples in the order in which the planner draws them in its first epoch."""
    table = BareLengths(lengths, length)
    order, parts = Order(table.starts, CHUNK, 0, 0), []
    for group in range(order.groups):
        found = table.read(order.spans(0, group))
        found = found[order.shuffle(0, group, len(found))]
        parts.append(found.index[found.tokens > 0])
    return np.concatenate(parts)


def peer(name: str, lengths: LengthSet, length: int) -> Plan:
    """A peer's rows of the same samples in the same order."""
    order = draw_order(lengths, length)[: SLOW.get(name)]
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(given, tokens=lengths.tokens[order], vision=lengths.vision[order])
        command = [str(PEERS), str(ROOT / "packing_peers.py"), name, str(given), str(out), "--length", str(length)]
        subprocess.run(command, check=True, capture_output=True)
        with np.load(out) as found:
            sample, pack, seconds = order[found["sample"]], found["pack"], float(found["seconds"])
    assert len(np.unique(sample)) == len(order), f"{name} lost samples"
    return Plan(sample, pack, loads_of(lengths, sample, pack), seconds, seconds)


def worst(loads: Loads, length: int, ranks: int) -> float:
    return min(value for name, value in balance(loads, length, ranks).items() if name != "vision_waste")


def trend(loads: Loads, rows: int) -> float:
    """Correlation of a step's number with its vision load, steps of `rows` rows."""
    whole = len(loads.patches) // rows * rows
    steps = loads.patches[:whole].reshape(-1, rows).sum(1)
    return float(np.corrcoef(np.arange(len(steps)), steps)[0, 1]) if len(steps) > 2 and steps.std() else 0.0


def judged(score: str | None, path: str, lengths: LengthSet, plan: Plan, length: int) -> str:
    """What the outside script says of a plan; it must be what `plan/score.py` says."""
    if score is None:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "plan.npz")
        np.savez(out, sample=plan.sample, pack=plan.pack)
        for ranks in (8, 64):
            command = [sys.executable, score, path, out, "--length", str(length), "--dp", str(ranks)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            ours = [100 * value for value in (fill(plan.loads, length), *balance(plan.loads, length, ranks).values())]
            theirs = [float(line.split()[-1]) for line in said.splitlines()[1:]]
            assert np.allclose(ours, theirs, atol=0.006), (ours, theirs)
    return "agrees"


def part_fill(args: argparse.Namespace) -> None:
    print("| set, L | planner | fill | vision waste, DP 8 | lockstep DP 8 / 64 | trend | samples/s | with drawing |")
    print("|---|---|---|---|---|---|---|---|")
    names = [] if args.no_peers else peer_names()
    for path in args.lengths:
        lengths = LengthSet.load(path)
        for length in LENGTHS:
            for name in ("looksay", *names):
                plan = planned(lengths, length) if name == "looksay" else peer(name, lengths, length)
                if name == "looksay":
                    expected = np.flatnonzero(lengths.tokens <= length)
                    assert np.array_equal(np.sort(plan.sample), expected), "dropped or repeated"
                    judged(args.score, path, lengths, plan, length)
                count, whole = len(plan.sample), f"{len(plan.sample) / plan.seconds / 1000:.0f}k"
                waste = balance(plan.loads, length, 8)["vision_waste"]
                print(
                    f"| {Path(path).stem} {length} | {name} | {100 * fill(plan.loads, length):.2f} | {100 * waste:.2f} | "
                    f"{100 * worst(plan.loads, length, 8):.2f} / {100 * worst(plan.loads, length, 64):.2f} | "
                    f"{trend(plan.loads, 64):+.2f} | {count / plan.kernel / 1000:.0f}k | "
                    f"{whole if name == 'looksay' else ''} |",
                    flush=True,
                )


def peer_names() -> list[str]:
    sys.path.insert(0, str(ROOT))
    from packing_peers import PEERS as known

    return list(known)


def part_ranks(args: argparse.Namespace) -> None:
    """One plan at any DP."""
    ranks = (1, 2, 4, 8, 16, 32, 64)
    print("| set | L | rows | " + " | ".join(f"DP {r}" for r in ranks) + " | vision waste DP 8 / 64 |")
    print("|" + "---|" * (len(ranks) + 4))
    for path in args.lengths:
        for length in LENGTHS:
            plan = planned(repeated(LengthSet.load(path), 4), length)
            scores = " | ".join(f"{100 * worst(plan.loads, length, r):.2f}" for r in ranks)
            waste = [100 * balance(plan.loads, length, r)["vision_waste"] for r in (8, 64)]
            print(
                f"| {Path(path).stem} x 4 | {length} | {len(plan.loads.tokens)} | {scores} | {waste[0]:.2f} / {waste[1]:.2f} |"
            )


def part_steps(args: argparse.Namespace) -> None:
    from packing_steps import measure

    measure(args.lengths)


def part_mixture(args: argparse.Namespace) -> None:
    from packing_mixture import measure

    measure()


def part_start(args: argparse.Namespace) -> None:
    """A process that plans its first window: with nothing compiled yet, then from numba's cache."""
    code = (
        "import time, numpy as np; t = time.perf_counter()\n"
        "from data_pipeline.stream.plan.bare import LengthSet, pack_epoch\n"
        "from data_pipeline.stream.plan.window import PlanSettings\n"
        "tokens = np.arange(20000) % 700 + 20\n"
        "list(pack_epoch(LengthSet(tokens, tokens // 300, 1.0), PlanSettings(4096, 512, 8, 64), 0))\n"
        "print(f'{time.perf_counter() - t:.2f}')"
    )
    with tempfile.TemporaryDirectory() as cache:
        for what in ("nothing compiled", "from the cache", "from the cache"):
            environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(ROOT.parent)}
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
            )
            print(f"imports and a first window, {what}: {done.stdout.strip()} s")


PARTS = {"fill": part_fill, "ranks": part_ranks, "steps": part_steps, "mixture": part_mixture, "start": part_start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("all", *PARTS))
    parser.add_argument("--lengths", nargs="+", default=[])
    parser.add_argument("--score", help="a script that judges plans: SCORE LENGTHS PLAN --length L --dp D")
    parser.add_argument("--no-peers", action="store_true")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    for name, part in PARTS.items():
        if args.part in ("all", name):
            print(f"\n### {name}\n")
            part(args)


if __name__ == "__main__":
    main()
