"""Whole builds against strangers: every hostile answer costs its own row, with its reason; a picture that would kill the
worker is found and left out; nothing of ours is read."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.ingest.job import build
from data_pipeline.ingest.verify import verify
from data_pipeline.shard import read_table
from tests.data_pipeline.conftest import build_recipe, encoded, noise
from tests.data_pipeline.ingest.pictures import many_scans
from tests.support.hostile import CASES, HostileServer

DEADLINE = 3.0
BROKEN = {
    "/png-bomb.png": "decode/too_many_pixels",
    "/html.jpg": "decode/not_a_picture",
    "/truncated.jpg": "decode/corrupt",
    "/empty.jpg": "decode/empty",
    "/short-late.jpg": "decode/corrupt",
}
"""What the fetcher hands on, and the decoder refuses."""


def outcomes(out: Path) -> list[dict[str, Any]]:
    rows = [row for path in sorted(out.glob("*.outcomes.parquet")) for row in read_table(path.read_bytes()).to_pylist()]
    return sorted(rows, key=lambda row: row["position"])


def test_every_hostile_answer_has_its_reason(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(noise(1)))
    with HostileServer() as server:
        urls = [server.url(path) for path in CASES]
        urls += [f"file://{secret}", str(secret), "http://169.254.169.254/latest/meta-data", "gopher://127.0.0.1/x"]
        lines = [json.dumps({"url": url, "caption": "words"}) for url in urls]
        (tmp_path / "list").mkdir()
        (tmp_path / "list" / "rows.jsonl").write_text("\n".join(lines))
        recipe = build_recipe(
            {"type": "table", "path": str(tmp_path / "list" / "rows.jsonl")},
            tmp_path / "out",
            unit_size=100,
            fetch={"allow_private": True, "deadline": DEADLINE, "max_bytes": 2**20, "per_host": 64},
            ray={"workers": 0},
        )
        began = time.monotonic()
        manifest = build(recipe, progress=False)
        seconds = time.monotonic() - began
    told = [
        None if row["outcome"] == "kept" else f"{row['stage']}/{row['reason']}" for row in outcomes(tmp_path / "out")
    ]
    wanted = [f"fetch/{reason}" if reason else BROKEN.get(path) for path, reason in CASES.items()]
    ours = ["source/file_url", "source/outside_image_root", "fetch/private_address", "source/scheme"]
    assert dict(zip(urls, told, strict=True)) == dict(zip(urls, [*wanted, *ours], strict=True))
    assert sum(manifest.totals["rejected"].values()) == len(urls) - told.count(None)
    assert verify(str(tmp_path / "out")).problems == []
    # They all wait at once: the build takes a deadline and a second, and what decoding and writing take.
    assert seconds < DEADLINE + 1 + 10, f"{seconds:.1f} s: rows waited for one another"


def test_private_addresses_are_refused_unless_allowed(tmp_path: Path) -> None:
    with HostileServer() as server:
        (tmp_path / "rows.jsonl").write_text(json.dumps({"url": server.url("/good/1.jpg"), "caption": "words"}))
        source = {"type": "table", "path": str(tmp_path / "rows.jsonl")}
        with pytest.raises(ValueError, match="fetch/private_address"):
            build(build_recipe(source, tmp_path / "a", ray={"workers": 0}), progress=False)
        assert not server.log.seen, "the server was asked"
        allowed = build_recipe(source, tmp_path / "b", ray={"workers": 0}, fetch={"allow_private": True})
        assert build(allowed, progress=False).totals["kept"] == 1


@pytest.mark.slow
def test_a_picture_that_kills_its_worker_is_left_out(tmp_path: Path) -> None:
    """Decoding takes longer than it may: the watchdog ends the worker, and the second attempt decodes in a child."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(12):
        (photos / f"p{number:02d}.png").write_bytes(encoded(noise(number, 80, 60)))
        (photos / f"p{number:02d}.txt").write_text(f"number {number}")
    (photos / "p05.png").unlink()
    (photos / "p05.jpg").write_bytes(many_scans(4000, 4000, 450))
    out = tmp_path / "out"
    recipe = build_recipe(photos, out, images={"decode_seconds": 1.0}, ray={"workers": 1, "object_store_mb": 80})
    manifest = build(recipe, progress=False)
    assert manifest.totals["rejected"] == {"decode/timeout": 1} and manifest.totals["kept"] == 11
    assert [row["position"] for row in outcomes(out) if row["stage"] == "decode"] == [5]
    told = [json.loads(line) for line in (out / "log" / "build.jsonl").read_text().splitlines()]
    assert [line["event"] for line in told if "event" in line] == ["lost"]
