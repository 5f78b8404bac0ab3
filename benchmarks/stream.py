"""The whole table of planning and reading in one run: every benchmark of the input pipeline, one after the other.

    python benchmarks/stream.py --lengths real.npz laion.npz sft.npz --score score.py --out stream.txt

Needs the peers' environments (docs/benchmarks/packing.md, reading.md, loading.md) and about 40 GB of disk for `cold`,
which is left out without --cold. Each part is a process of its own; a part that fails is said and the others go on.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def parts(args: argparse.Namespace) -> list[list[str]]:
    sft = next((path for path in args.lengths if "sft" in Path(path).name), args.lengths[-1])
    found = [
        ["packing.py", "all", "--lengths", *args.lengths, "--score", args.score],
        ["planning.py", "make", "--shards", "100000", "--lengths", sft],
        ["planning.py", "measure"],
        ["planning.py", "remove"],
        ["reading.py", "make", "--samples", "20000"],
        ["reading.py", "measure"],
        ["reading.py", "index"],
        ["reading.py", "s3"],
        ["loading.py", "make"],
        ["loading.py", "measure"],
    ]
    if args.cold:
        found += [["reading.py", "make", "--samples", "560000", "--folder", "cold"], ["reading.py", "cold"]]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", required=True)
    parser.add_argument("--score", required=True)
    parser.add_argument("--out", default="stream.txt")
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    failed = []
    with open(args.out, "a", encoding="utf-8") as out:
        for command in parts(args):
            title = f"\n== {time.strftime('%Y-%m-%d %H:%M')} load {os.getloadavg()[0]:.1f}: benchmarks/{' '.join(command)}\n"
            print(title, end="", flush=True)
            out.write(title)
            out.flush()
            begun = time.perf_counter()
            done = subprocess.run([sys.executable, str(HERE / command[0]), *command[1:]], stdout=out, stderr=out)
            out.write(f"-- {time.perf_counter() - begun:.0f} s, exit code {done.returncode}\n")
            out.flush()
            failed += [" ".join(command)] if done.returncode else []
    sys.exit(f"failed: {'; '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
