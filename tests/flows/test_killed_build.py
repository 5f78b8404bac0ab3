"""A build killed at random moments, started again: the same bytes, nothing lost, nothing twice, nothing half-written.

The short form runs in `make test`. The full one, for the committed matrix (200 kills, about half an hour on two cores):

    LOOKSAY_KILLS=200 LOOKSAY_KILL_SEED=1 python -m pytest tests/flows/test_killed_build.py -s
"""

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from data_pipeline.ingest.verify import verify
from tests.data_pipeline.conftest import contents

ROOT = Path(__file__).resolve().parents[2]
KILLS, SEED = int(os.environ.get("LOOKSAY_KILLS", "6")), int(os.environ.get("LOOKSAY_KILL_SEED", "0"))
ROWS, PATIENCE = 150, 180
"""Input rows; seconds that one start may take before the test calls it a hang."""
KINDS = ("here", "here", "here", "here", "driver", "all", "worker", "raylet")
"""What is killed: a build without Ray; on Ray the driver alone, everything at once, a worker, the raylet."""


def picture(number: int) -> bytes:
    """JPEG of a blurred pattern: every number is another picture."""
    random = np.random.default_rng(number)
    small = Image.fromarray(random.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    sink = io.BytesIO()
    small.resize((300 + number % 90, 290), Image.Resampling.BICUBIC).save(sink, "JPEG", quality=88)
    return sink.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Pictures by number. Some are not there, some are broken, some are another's twin: always the same ones."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        number = int(self.path.rsplit("/", 1)[-1].split(".")[0]) if self.path.startswith("/p/") else -1
        status, body = 200, b""
        if number < 0 or number % 13 == 5:
            status = 404
        elif number % 17 == 3:
            body = picture(number)[:2000]
        else:
            body = picture(number - number % 2 if number % 10 == 7 else number)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Silent."""


@dataclass(frozen=True)
class World:
    """A folder with a recipe, what an undisturbed build of it gives, and how long that takes here."""

    folder: Path
    wanted: dict[str, str]
    seconds: dict[bool, float]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("killed")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    rows = [
        {"url": f"http://127.0.0.1:{server.server_port}/p/{number}.jpg", "caption": f"pattern {number // 3}"}
        for number in range(ROWS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "build.yaml").write_text(
        "kind: build\nname: killed\nsource: {type: table, path: rows.jsonl}\noutput: out\n"
        "shard_size: 20\nunit_size: 8\nimages: {size: 64}\ndedup: {exact: image, near: true}\n"
        "fetch: {allow_private: true, retries: 0}\nray: {workers: 2, object_store_mb: 80, hedge_seconds: 10}\n"
    )
    seconds: dict[bool, float] = {}
    wanted: dict[str, str] = {}
    for here in (True, False):
        began = time.monotonic()
        done = subprocess.run(
            command(here), cwd=folder, env=environment(), capture_output=True, text=True, timeout=PATIENCE
        )
        seconds[here] = time.monotonic() - began
        assert done.returncode == 0, done.stderr
        found = hashes(folder)
        if not here:
            assert found == wanted, "a build on Ray differs from one without"
        wanted = found
        remove(folder / "out")
    assert len([name for name in wanted if name.endswith(".tar")]) >= 4
    yield World(folder, wanted, seconds)
    server.shutdown()


def command(here: bool) -> list[str]:
    words = [sys.executable, "-m", "pretrain.cli.main", "data", "build", "build.yaml", "--json"]
    return [*words, "--workers", "0"] if here else words


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}


def hashes(folder: Path) -> dict[str, str]:
    """Everything that the promise is about: all of the dataset but its log."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents(folder / "out").items()}


def remove(folder: Path) -> None:
    subprocess.run(["rm", "-rf", str(folder)], check=True, timeout=60)


def victims(kind: str, process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """What is to be killed now; empty where it is not there yet."""
    try:
        driver = psutil.Process(process.pid)
        below = driver.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    if kind in ("here", "driver"):
        return [driver]
    if kind == "all":
        return [driver, *below]
    named = [(one, first_word(one)) for one in below]
    if kind == "raylet":
        return [one for one, word in named if word.endswith("/raylet")][:1]
    return [one for one, word in named if word.startswith("ray::") and "Agent" not in word][:1]


def first_word(process: psutil.Process) -> str:
    try:
        return "".join(process.cmdline()[:1])
    except psutil.NoSuchProcess:  # it has just ended, or is a zombie
        return ""


def strike(kind: str, delay: float, folder: Path) -> str:
    """Start the build, kill after `delay`. Returns what became of it."""
    process = subprocess.Popen(
        command(kind == "here"), cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    below: list[psutil.Process] = []
    try:
        time.sleep(delay)
        hit = victims(kind, process)
        below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for one in hit:
            with_signal(one, signal.SIGKILL)
        process.wait(PATIENCE)
        return f"{kind} {'hit' if hit else 'missed'}"
    finally:
        process.kill()
        process.wait(10)
        for one in below:  # what a killed driver leaves ends by itself, but the next start need not wait for it
            with_signal(one, signal.SIGKILL)


def with_signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def half_written(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Files at a final name that are not what they will be."""
    passing = ("work/", "build.json", ".looksay-")
    return [name for name, sha in found.items() if not name.startswith(passing) and wanted.get(name) != sha]


def test_killed_anywhere_the_same_bytes(world: World) -> None:
    chance, counts = random.Random(SEED), Counter[str]()
    for turn in range(KILLS):
        remove(world.folder / "out")
        for _ in range(chance.choice((1, 1, 2))):  # sometimes killed twice
            kind = KINDS[turn % len(KINDS)]
            counts[strike(kind, chance.uniform(0.2, world.seconds[kind == "here"]), world.folder)] += 1
            if (world.folder / "out").exists():
                broken = half_written(hashes(world.folder), world.wanted)
                assert not broken, f"turn {turn}, {kind}: half-written {broken}"
        done = subprocess.run(
            command(turn % 3 > 0), cwd=world.folder, env=environment(), capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, f"turn {turn}, {kind}: {done.stderr}"
        assert hashes(world.folder) == world.wanted, f"turn {turn}, {kind}: other bytes"
        assert verify(str(world.folder / "out")).problems == []
        print(f"kill {turn + 1} of {KILLS}: {dict(counts)}", flush=True)
