"""The part of build_speed.py that runs in the peer's environment: img2dataset's own Resizer, and OpenCV as the referee.

    PEER/bin/python build_peer.py resizer FOLDER OUT [--no-encode]    CPU-ms of each picture of FOLDER; stored in OUT
    PEER/bin/python build_peer.py psnr < pairs                        how near stored pictures are to their sources

Both print one JSON object. The reference of a stored picture is a full decode of its source (`cv2.imdecode`) and INTER_AREA
to the stored size; a pair is a line {"source": PATH, "stored": PATH of a .jpg or .npy (RGB), or "tar" and "member"}.
"""

import argparse
import functools
import io
import json
import os
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np


def time_resizer(folder: Path, out: Path, encode: bool) -> dict[str, float]:
    """`Resizer` as img2dataset calls it: shortest side 256, area, JPEG q95. One pass to warm up, one that counts."""
    from img2dataset import resizer

    resize = resizer.Resizer(256, "keep_ratio", False, encode_quality=95, encode_format="jpg")
    if not encode:
        resizer.cv2.imencode = lambda *args, **options: (True, np.zeros(1, np.uint8))
    sources = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    out.mkdir(parents=True, exist_ok=True)
    taken = {}
    for counted in (False, True):
        for name, data in sources:
            start = time.process_time()
            stored, *_, error = resize(io.BytesIO(data))
            taken[name] = 1000 * (time.process_time() - start)
            assert error is None, error
            if counted and encode:
                (out / name).write_bytes(stored)
    return taken


def judge(pairs: list[dict[str, str]]) -> dict[str, float | str]:
    """Smallest and mean PSNR (dB, over all channels) and how many pictures were looked at."""
    found = [(_psnr(_stored(pair), pair["source"]), pair["source"]) for pair in pairs]
    found = [(min(value, 99.0), source) for value, source in found]
    least, worst = min(found)
    under = sum(value < 37.0 for value, _ in found)
    mean = sum(value for value, _ in found) / len(found)
    return {"count": len(found), "min": least, "mean": mean, "under_37": under, "worst": os.path.basename(worst)}


def _stored(pair: dict[str, str]) -> np.ndarray:
    """BGR pixels of what was stored."""
    if pair.get("stored", "").endswith(".npy"):
        return np.load(pair["stored"])[:, :, ::-1]
    data = _member(pair["tar"], pair["member"]) if "tar" in pair else Path(pair["stored"]).read_bytes()
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None, pair
    return pixels


def _member(tar: str, name: str) -> bytes:
    file = _open(tar).extractfile(name)
    assert file is not None
    return file.read()


@functools.cache
def _open(tar: str) -> tarfile.TarFile:
    return tarfile.open(tar)


def _psnr(stored: np.ndarray, source: str) -> float:
    full = cv2.imread(source, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert full is not None, source
    height, width = stored.shape[:2]
    reference = cv2.resize(full, (width, height), interpolation=cv2.INTER_AREA)
    return float(cv2.PSNR(reference, np.ascontiguousarray(stored)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    resizer = verbs.add_parser("resizer")
    resizer.add_argument("folder", type=Path)
    resizer.add_argument("out", type=Path)
    resizer.add_argument("--no-encode", action="store_true")
    verbs.add_parser("psnr")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if args.verb == "resizer":
        print(json.dumps(time_resizer(args.folder, args.out, not args.no_encode)))
    else:
        print(json.dumps(judge([json.loads(line) for line in sys.stdin])))


if __name__ == "__main__":
    main()
