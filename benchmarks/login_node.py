"""CPU seconds of `submit --dry-run`, `estimate` and `status` where neither torch nor Ray is installed. Goal: 0.5 s each.

    python benchmarks/login_node.py [--repeat 10]

Method: a fresh environment that sees only what these commands may need (pydantic, YAML; links into this one's packages), so
that an import of torch, Ray, numpy or pyarrow fails the command; a fresh interpreter for each run, after one that compiles
bytecode and is not counted; user + system seconds of the child from the kernel.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SEEN = ("pydantic", "pydantic_core", "typing_extensions.py", "annotated_types", "typing_inspection", "yaml", "_yaml")
GOAL = 0.5
SITE = (
    "scheduler: {type: slurm, partition: gpu, account: team, time: '1-00:00:00', ranks_per_node: 8, gpus_per_node: 8}\n"
)


def packages(folder: Path) -> Path:
    """A folder of packages with nothing heavy in it."""
    import pydantic

    found, place = Path(pydantic.__file__).parents[1], folder / "packages"
    place.mkdir()
    for name in SEEN:
        if (found / name).exists():
            (place / name).symlink_to(found / name)
    return place


def world(folder: Path) -> None:
    """A site, a recipe and a run with a thousand steps."""
    (folder / "site.yaml").write_text(SITE)
    (folder / "ray.yaml").write_text(
        "scheduler: {type: ray, address: 'http://head:8265', nodes: 2, gpus_per_node: 8}\n"
    )
    (folder / "mine.yaml").write_text("extends: demo_sft\nname: mine\nstage: {start_from: null}\n")
    run = folder / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("extends: demo_sft\n")
    (run / "status.json").write_text(json.dumps({"state": "running", "step": 1000, "steps": 5000}))
    line = {"loss": 2.0, "seconds": {"total": 1.0}, "tokens_per_s": 1e5, "wall": time.time()}
    (run / "metrics.jsonl").write_text("".join(json.dumps({"step": k, **line}) + "\n" for k in range(1, 1001)))


def cpu_seconds(folder: Path, arguments: list[str]) -> float:
    """User + system seconds of one run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-m", "pretrain.cli.main", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": f"{ROOT}:{folder / 'packages'}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


COMMANDS = (
    ["submit", "--site", "site.yaml", "--nodes", "2", "--dry-run", "train", "mine.yaml", "--run", "runs/new"],
    ["submit", "--site", "site.yaml", "--dry-run", "data", "build", "demo_emoji_train"],
    ["submit", "--site", "ray.yaml", "--dry-run", "train", "mine.yaml", "--run", "runs/new"],
    ["estimate", "tiny_train", "--site", "laptop"],
    ["estimate", "mine.yaml", "--site", "h100-8x", "--ranks", "64"],
    ["status", "runs/mine"],
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=10)
    repeat = parser.parse_args().repeat
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, Python {platform.python_version()}, {repeat} runs\n")
    print("| command | median CPU s | slowest |\n|---|---|---|")
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        packages(folder)
        world(folder)
        for arguments in COMMANDS:
            cpu_seconds(folder, arguments)
            seconds = [cpu_seconds(folder, arguments) for _ in range(repeat)]
            print(
                f"| `looksay {' '.join(arguments)}` | {statistics.median(seconds):.2f} | {max(seconds):.2f} |",
                flush=True,
            )
            worst = max(worst, statistics.median(seconds))
    print(f"\nthe slowest takes {worst:.2f} s, goal {GOAL} s: {'reached' if worst <= GOAL else 'missed'}")
    return 0 if worst <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
