"""Limits that C code cannot evade: a child process for suspects, a watchdog for all others."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.ingest import ImagesConfig
from data_pipeline.ingest.careful import Careful
from data_pipeline.ingest.decode import PictureError, prepare
from data_pipeline.ingest.watchdog import WATCHDOG_EXIT, Watchdog
from tests.data_pipeline.conftest import encoded, noise
from tests.data_pipeline.ingest.pictures import many_scans, photo

ROOT = Path(__file__).resolve().parents[3]
SLOW = many_scans(5000, 5000, 450)
"""Seconds of decoding in 100 kB."""


def reason_of(careful: Careful, data: bytes, **options: Any) -> str:
    with pytest.raises(PictureError) as caught:
        careful.prepare(data, ImagesConfig(**options))
    return caught.value.reason


def test_the_child_gives_what_prepare_gives() -> None:
    configs = (
        ImagesConfig(size=20),
        ImagesConfig(mode="none", format="png"),
        ImagesConfig(mode="center-crop", format="webp"),
    )
    with Careful() as careful:
        for config in configs:
            for kind in ("JPEG", "PNG", "GIF"):
                data = encoded(photo(0, 60, 40), kind)
                for canvas in (None, (30, 50)):
                    here, there = prepare(data, config, canvas), careful.prepare(data, config, canvas)
                    assert (here.data, here.format, here.info) == (there.data, there.format, there.info)
                    assert np.array_equal(here.pixels, there.pixels)
        for data in (b"", b"x", encoded(noise(0), "JPEG")[:100]):
            with pytest.raises(PictureError) as caught:
                prepare(data, configs[0])
            assert reason_of(careful, data) == caught.value.reason


def test_time_is_limited() -> None:
    """And the next picture is done by a new child."""
    with Careful(seconds=1) as careful:
        start = time.monotonic()
        assert reason_of(careful, SLOW) == "timeout"
        assert time.monotonic() - start < 30
        assert careful.prepare(encoded(noise(0)), ImagesConfig()).info.width == 24


def test_memory_is_limited() -> None:
    """5000 x 5000 pixels are 100 MB in Pillow; the child goes on living."""
    large = encoded(Image.new("RGB", (5000, 5000)), "PNG", compress_level=1)
    with Careful(memory_mb=64) as careful:
        assert careful.prepare(encoded(noise(0)), ImagesConfig()).info.width == 24
        before = careful._child
        assert reason_of(careful, large) == "memory"
        assert careful.prepare(encoded(noise(0)), ImagesConfig()).info.width == 24
        assert careful._child is before
    with Careful(memory_mb=2048) as careful:
        assert careful.prepare(large, ImagesConfig()).info.width == 256


def kill_when_busy(careful: Careful, times: int, number: int) -> threading.Thread:
    """Sends a signal to each of the next children, once it is at work."""

    def work() -> None:
        seen: set[int] = set()
        deadline = time.monotonic() + 20
        while len(seen) < times and time.monotonic() < deadline:
            child = careful._child
            if child is not None and child.pid not in seen:
                time.sleep(0.5)
                seen.add(child.pid)
                os.kill(child.pid, number)
            time.sleep(0.02)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_child_that_dies_twice_is_a_reason() -> None:
    with Careful(seconds=20) as careful:
        thread = kill_when_busy(careful, 2, signal.SIGSEGV)
        assert reason_of(careful, SLOW) == "crashed"
        thread.join(10)
        assert careful.prepare(encoded(noise(0)), ImagesConfig()).info.width == 24


def test_a_child_that_was_killed_from_outside_is_started_again() -> None:
    """Else the outcome of a picture would depend on who kills what in a build."""
    with Careful() as careful:
        careful.prepare(encoded(noise(0)), ImagesConfig())
        assert careful._child
        careful._child.kill()
        assert careful.prepare(encoded(noise(0)), ImagesConfig()).info.width == 24


def test_the_child_has_no_credentials_and_ends_with_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Careful() as careful:
        careful.prepare(encoded(noise(0)), ImagesConfig())
        child = careful._child
        assert child
        if Path("/proc/self/environ").exists():
            assert b"secret" not in Path(f"/proc/{child.pid}/environ").read_bytes()
    assert child.poll() is not None


WATCHED = """
import sys, time
from data_pipeline.ingest.watchdog import Watchdog
watchdog = Watchdog(64)
what = sys.argv[1]
there_before = b"x" * (100 << 20)
end = time.process_time() + (0.5 if what == "fine" else 30)
for _ in range(3):
    with watchdog.limit(0.6 if what == "time" else 20):
        if what == "memory":
            held = b"x" * (200 << 20)
        while what != "asleep" and time.process_time() < end:
            sum(range(1000))
if what == "asleep":
    with watchdog.limit(0.2):
        time.sleep(0.8)
time.sleep(0.5)
print("survived")
"""


@pytest.mark.parametrize("what", ["fine", "time", "memory", "asleep"])
def test_the_watchdog(what: str) -> None:
    """Ends the process for one picture that takes too much, not for several that take it together, nor for waiting."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, what],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if what in ("fine", "asleep"):
        assert (done.returncode, done.stdout.strip()) == (0, "survived"), done.stderr
    else:
        assert done.returncode == WATCHDOG_EXIT and not done.stdout
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("watchdog: decoding one picture took")
        assert ("MiB" in done.stderr) == (what == "memory")


def test_the_watchdog_interrupts_c_code() -> None:
    """The decoder of a hostile JPEG, which no Python exception would reach."""
    program = (
        "import sys\nfrom configs.ingest import ImagesConfig\nfrom data_pipeline.ingest.decode import prepare\n"
        "from data_pipeline.ingest.watchdog import Watchdog\nwatchdog = Watchdog(2048)\n"
        "data = sys.stdin.buffer.read()\n"
        "with watchdog.limit(0.3):\n    prepare(data, ImagesConfig())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=SLOW,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == WATCHDOG_EXIT


def test_leaving_the_watchdog_by_an_error() -> None:
    watchdog = Watchdog(64)
    with pytest.raises(PictureError), watchdog.limit(0.1):
        prepare(b"", ImagesConfig())
    assert not watchdog._busy
