"""A disk that is nearly full: one sentence, what is committed stays, and with room the build goes on to the same bytes."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import RunError
from data_pipeline.ingest.job import build
from data_pipeline.ingest.verify import verify
from tests.data_pipeline.conftest import build_recipe, contents, encoded, noise

PICTURES, SMALL, LARGE = 120, "1200k", "64m"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that is too small for the dataset."""
    place = tmp_path / "disk"
    place.mkdir()
    made = os.geteuid() == 0 and shutil.which("mount") is not None
    if made:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(place)]
        made = subprocess.run(mount, capture_output=True, timeout=30).returncode == 0
    if not made:
        pytest.skip("a small file system needs root, and leave to mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True, timeout=30)


def test_a_full_disk_stops_the_build_and_room_lets_it_go_on(disk: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(PICTURES):
        (photos / f"p{number:03d}.png").write_bytes(encoded(noise(number, 96, 64)))
        (photos / f"p{number:03d}.txt").write_text(f"number {number}")
    recipe = build_recipe(photos, disk / "out", unit_size=8, shard_size=20, ray={"workers": 0})
    with pytest.raises(RunError) as caught:
        build(recipe, progress=False)
    said = str(caught.value)
    assert said.startswith("no space is left for ") and "\n" not in said
    committed = {path.name: path.read_bytes() for path in disk.rglob("*.unit")}
    assert committed, "it stopped before anything was committed: the test shows nothing"
    assert not (disk / "out" / "manifest.json").exists()
    subprocess.run(["mount", "-o", f"remount,size={LARGE}", str(disk)], check=True, timeout=30)
    manifest = build(recipe, progress=False)
    assert manifest.totals["kept"] == PICTURES and verify(str(disk / "out")).problems == []
    undisturbed = build_recipe(photos, tmp_path / "out", unit_size=8, shard_size=20, ray={"workers": 0})
    build(undisturbed, progress=False)
    placed = ["manifest.json", "recipe.yaml"]
    assert contents(disk / "out", placed) == contents(tmp_path / "out", placed)
