"""Where checkpoints lie: S3 that is slow, busy or killed, a disk that is full. The run ends with the same weights."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.ranks import Nursery
from configs.errors import NO_REQUEUE
from pretrain.checkpoint.choose import find, latest
from pretrain.checkpoint.reading import Checkpoint, weights_sha256
from pretrain.run_folder import checkpoints_of, steps_of
from tests.resume.faults import EVERY, STEPS, new_nursery, recipe_tree, train
from tests.support.fault_proxy import Fault, spoiling
from tests.support.s3_server import S3Server


@pytest.fixture(scope="module")
def clean(squares: Path, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> str:
    run = tmp_path_factory.mktemp("clean")
    assert train(nursery, recipe_tree(str(squares)), run) == [0]
    return weights_sha256(find(str(run)).folder)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = new_nursery()
    yield made
    made.close()


SPOILT = {
    "healthy": [],
    "503": [Fault("busy", match=".safetensors", times=6)],
    "slow": [Fault("slow", match="PUT", times=6, seconds=1.0)],
    "resets": [Fault("reset", match="files.json", times=2), Fault("reset", match="head", times=2)],
    "answers lost": [Fault("lost answer", match="/head/", times=3), Fault("cut upload", match=".safetensors", times=2)],
}


@pytest.mark.parametrize("name", SPOILT)
def test_on_s3_the_run_is_the_same(
    name: str, squares: Path, s3: S3Server, s3_folder: str, clean: str, nursery: Nursery, tmp_path: Path
) -> None:
    recipe = recipe_tree(str(squares), checkpoint={"folder": f"{s3_folder}/ck"})
    with spoiling(s3.endpoint_url, *SPOILT[name]) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        assert train(nursery, recipe, tmp_path) == [0]
        assert all(fault.times == 0 for fault in proxy.faults), "the fault never came"
    assert checkpoints_of(tmp_path) == f"{s3_folder}/ck"
    assert steps_of(tmp_path) == list(range(EVERY, STEPS + 1, EVERY))
    assert weights_sha256(find(str(tmp_path)).folder) == clean


def test_s3_that_is_killed_and_comes_back(
    squares: Path, clean: str, nursery: Nursery, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for key, value in server.environment().items():
            patch.setenv(key, value)

        def interrupt() -> None:
            while not (tmp_path / "metrics.jsonl").exists():
                time.sleep(0.01)
            server.kill()
            time.sleep(1.0)
            server.start()
            over.wait(120)  # the server ends with the thread that started it

        over = threading.Event()
        thread = threading.Thread(target=interrupt)
        thread.start()
        # A collective waits for a rank that waits for the store.
        parts = {"checkpoint": {"folder": server.fresh()}, "parallel": {"timeout_seconds": 120.0}}
        assert train(nursery, recipe_tree(str(squares), **parts), tmp_path) == [0]
        from configs.ingest import StorageConfig
        from data_pipeline import storage

        storage.configure(StorageConfig())
        assert weights_sha256(find(str(tmp_path)).folder) == clean
    over.set()
    thread.join()
    server.kill()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    made = os.geteuid() == 0 and shutil.which("mount") is not None
    if made:
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
        made = subprocess.run(mount, capture_output=True, timeout=30).returncode == 0
    if not made:
        pytest.skip("a small file system needs root, and leave to mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True, timeout=30)


def fill(disk: Path, leave: int) -> None:
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
    (disk / "ballast").write_bytes(b"\0" * max(0, free - leave))


def test_a_full_disk_ends_in_a_sentence_and_room_lets_it_go_on(
    disk: Path, squares: Path, clean: str, nursery: Nursery, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_tree(str(squares), checkpoint={"folder": str(disk / "ck"), "every": 2, "keep_last": 9})
    run, done = tmp_path / "run", threading.Event()

    def watch() -> None:
        while not latest_step(run) and not done.is_set():
            time.sleep(0.005)
        fill(disk, leave=100_000)

    thread = threading.Thread(target=watch)
    thread.start()
    codes = train(nursery, recipe, run)
    done.set()
    thread.join()
    said = capfd.readouterr().out
    assert codes == [NO_REQUEUE] and "no space is left" in said and "could not be written" in said
    stood = latest(run)
    assert stood is not None and 2 <= stood.step < STEPS
    (disk / "ballast").unlink()
    assert train(nursery, recipe, run) == [0]
    assert weights_sha256(find(str(run)).folder) == clean
    left = {path.name for path in (disk / "ck").iterdir()}
    assert left == {
        "head",
        *(Path(find(f"{run}@{step}").folder).name for step in steps_of(run)),
        *frozen(run),
    }


def latest_step(run: Path) -> int:
    return max(steps_of(run), default=0) if (run / "checkpoints").exists() else 0


def frozen(run: Path) -> set[str]:
    state: dict[str, Any] = Checkpoint(find(str(run)).folder).state
    return {state["frozen"]}
