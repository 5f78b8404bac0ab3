"""Two hosts whose cable is pulled during an all-gather: both end by themselves, and their next start goes on."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import REQUEUE
from configs.load import dump_recipe
from pretrain.checkpoint.choose import folder_of
from pretrain.checkpoint.reading import weights_sha256
from tests.resume.faults import STEPS, new_nursery, recipe_tree, train

ROOT = Path(__file__).resolve().parents[2]
BRIDGE, NETWORK = "lscut0", "10.98.8"
HEART, TIMEOUT = 4.0, 8.0
START_SECONDS = 40.0
"""Imports of two processes on two cores, other work beside them."""


def _run(*words: str, check: bool = True) -> None:
    subprocess.run(words, check=check, capture_output=True, timeout=30)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Names of two network namespaces on a bridge."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("two hosts need root and `ip` (Debian: iproute2)")
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, timeout=10).returncode:
        pytest.skip("this machine allows no network namespaces")
    names = ["lscut-a", "lscut-b"]

    def clear() -> None:
        for name in names:
            _run("ip", "netns", "del", name, check=False)
        for number in range(len(names)):  # one that a process held on to
            _run("ip", "link", "del", f"vcut{number}", check=False)
        _run("ip", "link", "del", BRIDGE, check=False)

    clear()
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "link", "set", BRIDGE, "up")
    for number, name in enumerate(names):
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", f"vcut{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", f"vcut{number}", "master", BRIDGE, "up")
        _run("ip", "-n", name, "addr", "add", f"{NETWORK}.{number + 1}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            _run("ip", "-n", name, "link", "set", link, "up")
    yield names
    clear()


def start(hosts: list[str], recipe: Path, run: Path, port: int, pause: Path | None) -> list["subprocess.Popen[bytes]"]:
    started = []
    for rank, host in enumerate(hosts):
        env = {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "GROUP_RANK": str(rank),
            "MASTER_ADDR": f"{NETWORK}.1",
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "eth0",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        if pause is not None:
            env |= {"LOOKSAY_PAUSE_AT": "forward:7@1", "LOOKSAY_PAUSE_FILE": str(pause)}
        command = [sys.executable, "-P", "-m", "pretrain.cli.main", "train", str(recipe), "--run", str(run)]
        with (run.parent / f"rank-{rank}.txt").open("ab") as out:
            started.append(
                subprocess.Popen(["ip", "netns", "exec", host, *command], env=os.environ | env, stdout=out, stderr=out)
            )
    return started


def test_a_cut_cable(hosts: list[str], squares: Path, tmp_path: Path) -> None:
    parallel = {"heartbeat_seconds": HEART, "timeout_seconds": TIMEOUT}
    recipe = recipe_tree(str(squares), parallel=parallel)
    nursery = new_nursery()
    assert train(nursery, recipe, tmp_path / "clean") == [0]
    nursery.close()
    path, run, pause = tmp_path / "recipe.yaml", tmp_path / "run", tmp_path / "pause"
    path.write_text(dump_recipe(recipe))
    ranks = start(hosts, path, run, 29611, pause)
    try:
        end = time.monotonic() + START_SECONDS
        while not (pause.exists() and pause.read_text()):
            assert time.monotonic() < end and all(rank.poll() is None for rank in ranks)
            time.sleep(0.02)
        _run("ip", "link", "set", "vcut1", "down")
        pause.write_text("")
        cut = time.monotonic()
        codes = [rank.wait(60) for rank in ranks]
        took = time.monotonic() - cut
        assert codes == [REQUEUE, REQUEUE], [(tmp_path / f"rank-{n}.txt").read_text()[-800:] for n in range(2)]
        assert took < HEART + TIMEOUT + 10.0
        _run("ip", "link", "set", "vcut1", "up")
        ranks = start(hosts, path, run, 29612, None)
        assert [rank.wait(120) for rank in ranks] == [0, 0], (tmp_path / "rank-0.txt").read_text()[-2000:]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert "step 4" in (tmp_path / "rank-0.txt").read_text().split("resumed from")[1].split("\n")[0]
    assert weights_sha256(folder_of(run, STEPS)) == weights_sha256(folder_of(tmp_path / "clean", STEPS))
