"""Memory of a build's driver: growth from 100 to 10,000 shards. Goal: below 50 MB.

    python benchmarks/build_memory.py [--shards 100 1000 10000]

Method: rows of text alone (what a row holds never reaches the driver), ten samples a shard, ten shards a unit, on a local
Ray with two workers. Peak resident memory of the driver: VmHWM of its process, read every 50 ms until it ends.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
SAMPLES, GOAL = 10, 50.0


def peak_mb(command: list[str], folder: Path) -> tuple[float, float]:
    """Peak resident MB of the process itself (not of its children), and seconds."""
    began, peak = time.monotonic(), 0
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
    )
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has just ended: the last reading counts
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"the build failed with exit code {process.returncode}")
    return peak / 1024, time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[100, 1000, 10_000])
    shards = parser.parse_args().shards
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| shards | rows | peak of the driver, MB | seconds |\n|---|---|---|---|")
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in shards:
            rows = count * SAMPLES
            table = pa.table({"text": [f"the text of row {row}" for row in range(rows)]})
            pq.write_table(table, folder / "rows.parquet", row_group_size=10_000)
            shutil.rmtree(folder / "out", ignore_errors=True)
            words = ["data", "build", "rows.parquet", "out", "--shard-size", str(SAMPLES), "--workers", "2", "--json"]
            command = [sys.executable, "-m", "pretrain.cli.main", *words, "--set", f"unit_size={10 * SAMPLES}"]
            peak, seconds = peak_mb(command, folder)
            peaks.append(peak)
            print(f"| {count:,} | {rows:,} | {peak:.0f} | {seconds:.0f} |", flush=True)
    growth = peaks[-1] - peaks[0]
    print(f"\ngrowth {growth:.0f} MB, goal below {GOAL:.0f} MB: {'reached' if growth < GOAL else 'missed'}")
    return 0 if growth < GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
