"""A data build against img2dataset 1.47.0 on the same table, the same server and one core each.

    python -m venv benchmarks/.cache/peer && benchmarks/.cache/peer/bin/pip install img2dataset==1.47.0
    .venv/bin/pip install scikit-image                                  for the photo crops; Debian's apt-get for the rest
    .venv/bin/python benchmarks/build_speed.py builds --scheme http     [--rows 10000] [--runs 3]
    .venv/bin/python benchmarks/build_speed.py builds --scheme https
    .venv/bin/python benchmarks/build_speed.py guards                   ours with and without robots.txt and opt-out
    .venv/bin/python benchmarks/build_speed.py large                    decode + resize of 2048x1536, in process
    .venv/bin/python benchmarks/build_speed.py decode                   the same on the mixed corpus

Method: nginx on core 1 serves photo crops (build_corpus.py) from the loopback; the client, all its processes, is pinned to
core 0. Both sides read one parquet (url, caption), fetch with 64 in flight in one worker, make 256 px (shortest side) JPEGs
of q95 with SHA-256, and write tar + parquet. Runs alternate (A B A B), medians are given. CPU is what the kernel counted
for the whole tree of processes (process_cost.py). A run of 100 rows is the fixed start-up; both views are printed.
HTTPS: verification on, Debian's root authorities loaded beside the benchmark's own (SSL_CERT_FILE).
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import build_decode
import pyarrow.parquet as pq
from build_corpus import Corpus, large, mixed, write_rows
from debian_files import cache
from loopback_server import LoopbackServer
from process_cost import Cost, measure

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
CLIENT, SERVER = 0, 1  # cores
START_UP = 100  # rows
WORK = cache() / "speed"


class Side(NamedTuple):
    """One program under test: how it is called, and where the stored picture behind a row is."""

    name: str
    command: Callable[[Path, Path], list[str]]  # (table, output folder)
    environment: dict[str, str]
    stored: Callable[[Path], dict[str, tuple[str, str]]]  # output folder -> url -> (tar, member)


class Run(NamedTuple):
    cost: Cost
    kept: int


def ours(args: argparse.Namespace, name: str = "looksay", *more: str) -> Side:
    def command(table: Path, out: Path) -> list[str]:
        line = [args.ours, "-m", "pretrain.cli.main", "data", "build", str(table), str(out), "--allow-private"]
        line += ["--image-column", "url", "--text-column", "caption", "--mode", "keep-ratio", "--size", "256"]
        line += ["--format", "jpg", "--shard-size", "10000", "--workers", str(args.workers)]
        for setting in ("images.quality=95", "fetch.concurrency=64", *args.set, *more):
            line += ["--set", setting]
        return line

    def stored(out: Path) -> dict[str, tuple[str, str]]:
        urls = pq.read_table(out.parent / "rows.parquet")["url"].to_pylist()  # a sample's key is its row's number
        return {
            urls[int(member.split(".")[0])]: (str(tar), member)
            for tar in sorted(out.glob("*.tar"))
            for member in _members(tar)
            if member.endswith(".jpg")
        }

    return Side(name, command, {}, stored)


def peer(args: argparse.Namespace) -> Side:
    def command(table: Path, out: Path) -> list[str]:
        line = [str(Path(args.peer).with_name("img2dataset")), f"--url_list={table}", f"--output_folder={out}"]
        line += ["--input_format=parquet", "--url_col=url", "--caption_col=caption", "--output_format=webdataset"]
        line += ["--processes_count=1", "--thread_count=64", "--image_size=256", "--resize_mode=keep_ratio"]
        line += ["--encode_format=jpg", "--encode_quality=95", "--compute_hash=sha256", "--enable_wandb=False"]
        return [*line, "--number_sample_per_shard=10000"]

    def stored(out: Path) -> dict[str, tuple[str, str]]:
        found = {}
        for table in sorted(out.glob("*.parquet")):
            rows = pq.read_table(table, columns=["url", "key", "status"]).to_pylist()
            tar = str(table.with_suffix(".tar"))
            found.update({r["url"]: (tar, f"{r['key']}.jpg") for r in rows if r["status"] == "success"})
        return found

    return Side("img2dataset 1.47.0", command, {"NO_ALBUMENTATIONS_UPDATE": "1"}, stored)


def _members(tar: Path) -> list[str]:
    with tarfile.open(tar) as file:
        return file.getnames()


def compare(sides: list[Side], corpus: Corpus, args: argparse.Namespace, scheme: str) -> bool:
    """Measure the sides in turn and print the table; whether both kept every row."""
    shutil.rmtree(WORK, ignore_errors=True)
    whole: dict[str, list[Run]] = {side.name: [] for side in sides}
    short: dict[str, list[Run]] = {side.name: [] for side in sides}
    fidelity: dict[str, dict[str, Any]] = {}
    with LoopbackServer({corpus.name: corpus.folder}, SERVER) as server:
        base = f"{server.https if scheme == 'https' else server.http}/{corpus.name}"
        print(f"{server.roots} authorities loaded\n" if scheme == "https" else "")
        trust = {"SSL_CERT_FILE": str(server.bundle)} if scheme == "https" else {}
        for number in range(args.runs):
            for side in sides:
                for rows, runs in ((START_UP, short), (args.rows, whole)):
                    folder = WORK / side.name.split()[0]
                    shutil.rmtree(folder, ignore_errors=True)
                    write_rows(corpus, base, rows, folder / "rows.parquet")
                    runs[side.name].append(_run(side, folder, trust))
                if number == 0:
                    fidelity[side.name] = _fidelity(side, folder, corpus, args)
                cost = whole[side.name][-1].cost
                print(f"  run {number + 1}, {side.name}: {cost.cpu:.1f} CPU s, {cost.wall:.1f} s", flush=True)
    _print_table(sides, whole, short, fidelity, args.rows)
    return all(run.kept == args.rows for runs in whole.values() for run in runs)


def _run(side: Side, folder: Path, trust: dict[str, str]) -> Run:
    out = folder / "out"
    cost = measure(
        side.command(folder / "rows.parquet", out),
        core=CLIENT,
        environment={**side.environment, **trust, "PYTHONPATH": str(ROOT)},
        log=folder / "log",
    )
    return Run(cost, len(side.stored(out)))


def _fidelity(side: Side, folder: Path, corpus: Corpus, args: argparse.Namespace) -> dict[str, Any]:
    """PSNR of one stored picture for each file of the corpus."""
    pairs: dict[str, dict[str, str]] = {}
    for url, (tar, member) in side.stored(folder / "out").items():
        file = url.rsplit("/", 1)[1].split("?")[0]
        pairs.setdefault(file, {"source": str(corpus.folder / file), "tar": tar, "member": member})
    return _judge(list(pairs.values()), args)


def _judge(pairs: list[dict[str, str]], args: argparse.Namespace) -> dict[str, Any]:
    lines = "\n".join(json.dumps(pair) for pair in pairs)
    done = subprocess.run(
        [args.peer, str(HERE / "build_peer.py"), "psnr"], input=lines, stdout=subprocess.PIPE, text=True, check=True
    )
    judged: dict[str, Any] = json.loads(done.stdout)
    return judged


def _print_table(
    sides: list[Side], whole: dict[str, list[Run]], short: dict[str, list[Run]], fidelity: dict[str, Any], rows: int
) -> None:
    def middle(runs: list[Run], value: Callable[[Cost], float]) -> float:
        return statistics.median(value(run.cost) for run in runs)

    print(
        "\n| | CPU-ms/image | images/s per core | without start-up: CPU-ms/image | images/s per core | start-up CPU s "
        "| user + system s | wall s | images/s | peak MB | kept | PSNR min / mean dB |\n|" + "---|" * 12
    )
    each, net = {}, {}
    for side in sides:
        runs, start = whole[side.name], short[side.name]
        cpu, fixed = middle(runs, lambda c: c.cpu), middle(start, lambda c: c.cpu)
        each[side.name], net[side.name] = 1000 * cpu / rows, 1000 * (cpu - fixed) / (rows - START_UP)
        wall = middle(runs, lambda c: c.wall)
        seen = fidelity[side.name]
        print(
            f"| {side.name} | {each[side.name]:.2f} | {1000 / each[side.name]:.0f} | {net[side.name]:.2f} "
            f"| {1000 / net[side.name]:.0f} | {fixed:.1f} | {middle(runs, lambda c: c.user):.1f} + "
            f"{middle(runs, lambda c: c.system):.1f} | {wall:.1f} | {rows / wall:.0f} | {middle(runs, lambda c: c.peak):.0f} "
            f"| {runs[-1].kept} of {rows} | {seen['min']:.1f} / {seen['mean']:.1f} ({seen['under_37']} of {seen['count']} < 37) |"
        )
    first, second = sides
    print(
        f"\n{first.name} / {second.name} in CPU-ms: {each[first.name] / each[second.name]:.2f}, without start-up "
        f"{net[first.name] / net[second.name]:.2f}; every run: "
        + "; ".join(
            f"{side.name} " + ", ".join(f"{1000 * run.cost.cpu / rows:.2f}" for run in whole[side.name])
            for side in sides
        )
        + f"; CPU counted by {whole[first.name][0].cost.method}"
    )


def head(args: argparse.Namespace, corpus: Corpus) -> None:
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "?")
    print(
        f"{time.strftime('%Y-%m-%d')}, {model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}; corpus {corpus.name}: {len(corpus.files)} photo crops, mean "
        f"{corpus.bytes / len(corpus.files) / 1000:.0f} KB, digest {corpus.digest}; {args.runs} runs"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("builds", "guards", "large", "decode"))
    parser.add_argument("--scheme", choices=("http", "https"), default="http")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="of looksay (0: without Ray)")
    parser.add_argument("--set", action="append", default=[], help="more settings for looksay, for example a.b=c")
    parser.add_argument("--peer", default=str(cache() / "peer/bin/python"), help="Python that has img2dataset")
    parser.add_argument("--ours", default=sys.executable, help="Python that has looksay's requirements")
    args = parser.parse_args()
    if not Path(args.peer).exists():
        sys.exit(f"no {args.peer}: make the peer's environment as `{parser.prog} --help` says, or name it by --peer")
    corpus = large() if args.what == "large" else mixed()
    head(args, corpus)
    if args.what in ("large", "decode"):
        return build_decode.run(corpus.folder, args, CLIENT, WORK, _judge)
    if args.what == "builds":
        sides = [peer(args), ours(args)]
    else:
        sides = [ours(args, "guards on"), ours(args, "guards off", "fetch.robots_txt=false", "fetch.opt_out=[]")]
    return 0 if compare(sides, corpus, args, args.scheme) else 1


if __name__ == "__main__":
    sys.exit(main())
