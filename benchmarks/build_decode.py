"""Decoding, resizing and encoding alone, in one process: looksay's `prepare` against img2dataset's Resizer, and PSNR of both.

    .venv/bin/python benchmarks/build_speed.py large     (2048x1536)      the way to call it: this file is its other half
    .venv/bin/python benchmarks/build_speed.py decode    (the mixed corpus)
    .venv/bin/python benchmarks/build_decode.py FOLDER OUT      only our half: CPU-ms of each picture, as JSON

Each side runs in a fresh process pinned to core 0, one pass to warm up and one that counts, three times in turn. `decode +
resize` is the same call without JPEG encoding. PSNR is taken twice: of the pixels before encoding (what decoding at a
reduced scale costs), and of the stored q95 JPEG (what a reader of the dataset gets).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
Judge = Callable[[list[dict[str, str]], argparse.Namespace], dict[str, Any]]


def time_prepare(folder: Path, out: Path, encode: bool) -> dict[str, float]:
    """CPU-ms of each picture; `out` gets what is stored (NAME) and its pixels before encoding (NAME.npy)."""
    from configs.ingest import ImagesConfig
    from data_pipeline.ingest import decode

    config = ImagesConfig(mode="keep-ratio", size=256, format="jpg", quality=95)
    sources = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    out.mkdir(parents=True, exist_ok=True)
    taken = {}
    for counted in (False, True):
        for name, data in sources:
            start = time.process_time()
            made = decode.prepare(data, config) if encode else None
            if made is None:
                decode.pixels_of(data, config)
            taken[name] = 1000 * (time.process_time() - start)
            if counted and made is not None:
                (out / name).write_bytes(made.data)
                np.save(out / f"{name}.npy", made.pixels)
    return taken


def run(folder: Path, args: argparse.Namespace, core: int, work: Path, judge: Judge) -> int:
    """Both halves in turn, `args.runs` times; prints the table."""
    shutil.rmtree(work, ignore_errors=True)
    names = sorted(path.name for path in folder.iterdir())
    progressive = [name for name in names if "progressive" in Image.open(folder / name).info]
    groups = {"all": names, "baseline": [n for n in names if n not in progressive], "progressive": progressive}
    commands = {
        "img2dataset": [args.peer, str(HERE / "build_peer.py"), "resizer"],
        "looksay": [args.ours, str(HERE / "build_decode.py")],
    }
    taken: dict[tuple[str, bool], list[dict[str, float]]] = {}
    for _ in range(args.runs):
        for side, command in commands.items():
            for encode in (True, False):
                line = [*command, str(folder), str(work / side), *([] if encode else ["--no-encode"])]
                taken.setdefault((side, encode), []).append(_pinned(line, core))
    print("\n| CPU-ms a picture | pictures | decode + resize | and encode | PSNR of the pixels | PSNR as stored |")
    print("|" + "---|" * 6)
    for group, members in groups.items():
        means = {}
        for side in commands:
            for encode in (False, True):
                runs = [sum(found[name] for name in members) / len(members) for found in taken[side, encode]]
                means[side, encode] = statistics.median(runs)
            pixels, stored = (
                _psnr(folder, work / side, members, ending, judge, args)
                for ending in ("" if side == "img2dataset" else ".npy", "")
            )
            print(
                f"| {side}, {group} | {len(members)} | {means[side, False]:.2f} | {means[side, True]:.2f} "
                f"| {'exact by definition' if side == 'img2dataset' else pixels} | {stored} |"
            )
        ratios = [means["img2dataset", encode] / means["looksay", encode] for encode in (False, True)]
        print(f"| ratio, {group} | | {ratios[0]:.2f} | {ratios[1]:.2f} | | |", flush=True)
    return 0


def _pinned(line: list[str], core: int) -> dict[str, float]:
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONPATH": str(HERE.parent)}
    line = ["taskset", "-c", str(core), *line]
    done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=900)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _psnr(folder: Path, out: Path, names: list[str], ending: str, judge: Judge, args: argparse.Namespace) -> str:
    pairs = [{"source": str(folder / name), "stored": str(out / f"{name}{ending}")} for name in names]
    seen = judge(pairs, args)
    return f"min {seen['min']:.1f} ({seen['worst']}), mean {seen['mean']:.1f} dB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--no-encode", action="store_true")
    args = parser.parse_args()
    print(json.dumps(time_prepare(args.folder, args.out, not args.no_encode)))


if __name__ == "__main__":
    main()
