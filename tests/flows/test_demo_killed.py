"""The demo killed at any moments, and started again: the same summary as undisturbed. Full form: LOOKSAY_KILLS=12."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.flows.test_demo import sources
from tests.flows.test_own_folder import COMMAND, ROOT

KILLS = int(os.environ.get("LOOKSAY_KILLS", "1"))
NAMES = ("emoji_train", "emoji_heldout", "vqa_train", "vqa_test")
MEASURED = ("seconds", "versions", "train")
"""Of the machine and the hour; all else is of the recipe and the data."""


def start(arguments: list[str], folder: Path) -> "subprocess.Popen[bytes]":
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", COMMAND, *arguments]
    with (folder / "out.txt").open("ab") as out:
        return subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out, start_new_session=True)


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs/demo/summary.json").read_text())
    kept = {name: value for name, value in found.items() if name not in MEASURED}
    kept["resume"] = {name: value for name, value in kept["resume"].items() if name != "killed_at"}
    return kept


@pytest.mark.slow
def test_a_demo_that_is_killed_ends_as_one_that_is_not(tmp_path: Path) -> None:
    sets = [*sources(tmp_path / "source"), *(f"data.{name}.ray.workers=0" for name in NAMES)]
    arguments = ["demo", *(word for item in sets for word in ("--set", item))]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        folder.mkdir()
    begun = time.monotonic()
    assert start(arguments, undisturbed).wait(300) == 0, (undisturbed / "out.txt").read_text()[-3000:]
    took = time.monotonic() - begun
    chance = random.Random(int(os.environ.get("LOOKSAY_SEED", str(int(time.time() // 86400)))))
    for _ in range(KILLS):
        process = start(arguments, killed)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.5, took))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        time.sleep(0.5)  # its ranks are ended by the kernel
    assert start(arguments, killed).wait(300) == 0, (killed / "out.txt").read_text()[-3000:]
    assert summary_of(killed) == summary_of(undisturbed)
