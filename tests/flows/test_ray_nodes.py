"""A build on three Ray nodes: two killed, one behind a cut cable, the driver killed and started again: the same bytes."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from data_pipeline.ingest.verify import verify
from tests.data_pipeline.conftest import contents
from tests.support import ray_nodes

ROOT = Path(__file__).resolve().parents[2]
WHY_NOT = ray_nodes.missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]
PICTURES, UNIT = 720, 6


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that all nodes see: their /tmp is their own."""
    with tempfile.TemporaryDirectory(prefix="looksay-nodes-", dir="/var/tmp") as name:
        yield Path(name)


def fill(folder: Path) -> None:
    """Pictures that take some hundredths of a second each, and a text beside each."""
    folder.mkdir()
    for number in range(PICTURES):
        random = np.random.default_rng(number)
        small = Image.fromarray(random.integers(0, 255, (9, 12, 3), dtype=np.uint8))
        small.resize((1600, 1200), Image.Resampling.NEAREST).save(folder / f"{number:04d}.png", compress_level=1)
        (folder / f"{number:04d}.txt").write_text(f"pattern {number}")


def command(address: str | None) -> list[str]:
    words = [sys.executable, "-m", "pretrain.cli.main", "data", "build", "build.yaml", "--json"]
    return [*words, *(["--workers", "0"] if address is None else ["--set", f"ray.address={address}"])]


def wait_until(there: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)


def units(folder: Path) -> int:
    return sum(1 for _ in (folder / "out").rglob("*.unit"))


def events(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "out" / "log" / "build.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "event" in line]


def test_nodes_die_and_the_bytes_are_the_same(place: Path) -> None:
    fill(place / "photos")
    (place / "build.yaml").write_text(
        "kind: build\nname: nodes\nsource: {type: folder, path: photos}\noutput: out\n"
        f"shard_size: 100\nunit_size: {UNIT}\nimages: {{size: 128}}\ndedup: {{exact: image, near: true}}\n"
        "ray: {hedge_seconds: 15}\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command(None), cwd=place, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    wanted = contents(place / "out")
    (place / "out").rename(place / "undisturbed")
    total = -(-PICTURES // UNIT)
    with ray_nodes.RayNodes(3, place) as nodes, open(place / "driver.log", "wb") as log:

        def start() -> "subprocess.Popen[bytes]":
            words = nodes.command(0, ["env", "-C", str(place), *command(nodes.head)])
            return subprocess.Popen(words, env={**env, **nodes.token}, stdout=log, stderr=log)

        driver = start()
        wait_until(lambda: units(place) > total // 10, 120, "the first units")
        nodes.crash(1)
        nodes.boot(1)
        wait_until(lambda: units(place) > total // 4, 120, "units after a node was killed")
        for process in [*psutil.Process(driver.pid).children(recursive=True), driver]:
            process.kill()
        driver.wait(30)
        driver = start()
        wait_until(lambda: units(place) > total // 3, 120, "units of the second driver")
        nodes.cut(2)
        cut_at = time.monotonic()
        wait_until(lambda: units(place) > total // 2, 120, "units after the cut")
        nodes.crash(1)
        driver.wait(300)
        seconds = time.monotonic() - cut_at
        assert driver.returncode == 0, (place / "driver.log").read_text()
        told = events(place)
    assert contents(place / "out") == wanted
    assert verify(str(place / "out")).problems == []
    doubled = [event for event in told if event["event"] in ("doubled", "lost")]
    assert doubled, "nothing was lost or doubled: the faults hit nothing"
    print(f"{seconds:.0f} s from the cut to the end; events: {[(e['event'], e['seconds']) for e in doubled]}")
