"""Jobs on a real Ray cluster of three nodes that wants a token: builds, training, lost nodes, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cluster.schedulers.choose import scheduler_of_job
from tests.data_pipeline.conftest import contents
from tests.flows.conftest import good_world  # noqa: F401  (a fixture)
from tests.support import ray_nodes
from tests.support.ray_nodes import RayNodes, command_lines
from tests.support.slurm import metrics

ROOT = Path(__file__).resolve().parents[2]
WHY_NOT = ray_nodes.missing(jobs=True)
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]

STEPS, PICTURES, UNIT = 30, 360, 6
RECIPE = """extends: mine.yaml
model:
  encoder: {width: 32, depth: 1, heads: 2, mlp_width: 32}
  decoder: {layers: 1, width: 32, heads: 2, kv_heads: 1, mlp_width: 32}
data: {packing: {length: 128, rows_per_step: 2, window_steps: 2}}
stage: {steps: STEPS}
optim: {warmup_steps: 0}
parallel: {rows_per_rank: 1, timeout_seconds: 180}
checkpoint: {every: 5}
log: {to: []}
"""


@pytest.fixture(scope="module")
def nodes(good_world: Path) -> Iterator[RayNodes]:  # noqa: F811
    """The cluster, and the world of tests/flows in a folder that all nodes see: their /tmp is their own."""
    with tempfile.TemporaryDirectory(prefix="looksay-ray-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        shutil.copytree(good_world, folder / "world")
        (folder / "world" / "small.yaml").write_text(RECIPE.replace("STEPS", str(STEPS)))
        (folder / "ray").mkdir()
        with RayNodes(3, folder / "ray", jobs=True) as cluster:
            token = folder / "world" / "token"
            token.write_text(cluster.token["RAY_AUTH_TOKEN"] + "\n")
            token.chmod(0o600)
            site(folder / "world" / "site.yaml", cluster.api, token)
            yield cluster


def site(path: Path, address: str, token: Path | None, **more: Any) -> None:
    """The YAML of a site with this cluster. JSON is YAML."""
    named = {} if token is None else {"token_file": str(token)}
    scheduler = {
        "type": "ray",
        "address": address,
        "nodes": 2,
        "ranks_per_node": 1,
        "wait_seconds": 120,
        "env": {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        **named,
        **more,
    }
    path.write_text(json.dumps({"scheduler": scheduler}))


@pytest.fixture
def here(nodes: RayNodes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared folder with the recipe and the site."""
    monkeypatch.chdir(nodes.folder.parent / "world")
    return Path.cwd()


def looksay(*words: str, code: int = 0) -> Any:
    """Run the command; returns its JSON, or what it says on stderr where another exit code is due."""
    command = [sys.executable, "-P", "-m", "pretrain.cli.main", *words]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"PYTHONPATH": str(ROOT), "HOME": str(Path.cwd())}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout) if code == 0 else done.stderr


def submit(*words: str, at: str = "site.yaml") -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = looksay("submit", "--site", at, "--json", *words)["jobs"]
    return told


def wait_until(there: Callable[[], Any], seconds: float, what: str, job: dict[str, Any]) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, f"waited {seconds} s for {what}; its log: {log_of(job)}"
        time.sleep(0.3)


def log_of(job: dict[str, Any]) -> str:
    return Path(job["log"]).read_text() if Path(job["log"]).exists() else "there is none"


def state(nodes: RayNodes, job: dict[str, Any]) -> str:
    """What the cluster says of a job, asked from this process: a command each time would take the cores from the job."""
    noted = {"scheduler": "ray", "address": nodes.api, "token_file": str(nodes.folder.parent / "world" / "token")}
    return str(scheduler_of_job(noted).states([job["id"]])[job["id"]].state)


def ended(nodes: RayNodes, job: dict[str, Any], seconds: float = 180) -> str:
    """Wait for a job's end; returns its state."""
    wait_until(lambda: state(nodes, job) not in ("PENDING", "RUNNING"), seconds, f"the end of {job['id']}", job)
    return state(nodes, job)


def losses(run: str) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in metrics(Path(run)) if "loss" in line}


@pytest.fixture(scope="module")
def straight(nodes: RayNodes) -> dict[int, float]:
    """Losses of a run that nobody disturbs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(nodes.folder.parent / "world")
        (job,) = submit("train", "small.yaml", "--run", "straight")
        assert ended(nodes, job) == "COMPLETED", log_of(job)
        assert "2 nodes x 1 ranks, meeting at 10.98.7." in log_of(job)
        return losses("straight")


def test_a_node_dies_and_the_losses_are_the_same(here: Path, nodes: RayNodes, straight: dict[int, float]) -> None:
    assert sorted(straight) == list(range(1, STEPS + 1))
    (job,) = submit("train", "small.yaml", "--run", "orphaned")
    wait_until(lambda: max(losses("orphaned"), default=0) >= 7, 90, "step 7", job)
    gone = next(
        k for k in (2, 1) if f"{nodes.address(k)}," in hosts_of(job) or hosts_of(job).endswith(nodes.address(k))
    )
    nodes.crash(gone)
    try:
        assert ended(nodes, job) == "COMPLETED", log_of(job)
    finally:
        nodes.boot(gone)
    assert losses("orphaned") == straight
    told = looksay("status", "orphaned", "--json")
    assert told["state"] == "done" and told["step"] == STEPS and told["starts"] == 2 and told["job"]["restarts"] == 1
    assert f"node {nodes.address(gone)} is lost" in log_of(job) and "starts again, after 0 starts" in log_of(job)


def hosts_of(job: dict[str, Any]) -> list[str]:
    """Addresses of the nodes that a job's ranks are on now."""
    line = [line for line in log_of(job).splitlines() if line.startswith("on nodes ")][-1]
    return line.removeprefix("on nodes ").split(",")


def test_what_is_cancelled_writes_a_checkpoint_first(here: Path, nodes: RayNodes) -> None:
    (job,) = submit(
        "train", "small.yaml", "--run", "stopped", "--set", "checkpoint.every=1000", "--set", "stage.steps=2000"
    )
    wait_until(lambda: max(losses("stopped"), default=0) >= 2, 90, "step 2", job)
    assert looksay("cancel", "stopped", "--json", "--dry-run") == {"cancelled": [job["id"]], "dry_run": True}
    assert state(nodes, job) == "RUNNING"
    assert looksay("cancel", "stopped", "--json")["cancelled"] == [job["id"]]
    assert ended(nodes, job) == "CANCELLED"
    told = looksay("status", "stopped", "--json")
    assert told["job"]["state"] == "CANCELLED" and 2 <= told["checkpoint"]["step"] < 2000
    assert looksay("cancel", "stopped", "--json") == {"cancelled": []}


def fill(folder: Path) -> None:
    folder.mkdir()
    for number in range(PICTURES):
        random = np.random.default_rng(number)
        small = Image.fromarray(random.integers(0, 255, (9, 12, 3), dtype=np.uint8))
        small.resize((1600, 1200), Image.Resampling.NEAREST).save(folder / f"{number:04d}.png", compress_level=1)
        (folder / f"{number:04d}.txt").write_text(f"pattern {number}")


def test_a_build_over_three_nodes_of_which_one_dies(here: Path, nodes: RayNodes) -> None:
    fill(here / "many")
    words = ["data", "build", "many", "out", "--size", "128", "--shard-size", "100", "--set", f"unit_size={UNIT}"]
    looksay(*words, "--workers", "0", "--json")
    wanted = contents(here / "out")
    Path("out").rename("undisturbed")
    (job,) = submit(*words)
    wait_until(lambda: sum(1 for _ in Path("out").rglob("*.unit")) > PICTURES // UNIT // 5, 90, "units", job)
    nodes.crash(1)
    try:
        assert ended(nodes, job) == "COMPLETED", log_of(job)
    finally:
        nodes.boot(1)
    assert contents(here / "out") == wanted
    events = [json.loads(line) for line in Path("out/log/build.jsonl").read_text().splitlines()]
    assert [event for event in events if event.get("event") in ("lost", "doubled")], "the node did nothing when it died"
    assert "built out: 360 rows in" in log_of(job)


def test_more_nodes_than_there_are(here: Path, nodes: RayNodes) -> None:
    site(here / "hasty.yaml", nodes.api, here / "token", wait_seconds=3)
    first, second = submit(
        "--nodes", "9", "train", "small.yaml", "--run", "large", "+", "evaluate", "large", at="hasty.yaml"
    )
    assert second["after"] == [first["id"]]
    wait_until(lambda: "raise scheduler.wait_seconds" in log_of(first), 60, "the refusal", first)
    assert "the job needs 9 nodes with 1 CPU each, and the cluster has " in log_of(first)
    wait_until(lambda: "does not begin" in log_of(second), 60, "the end of what comes after it", second)
    assert "ended as FAILED, so this one, which was to come after it, does not begin" in log_of(second)
    assert not Path("large/config.yaml").exists()


def test_a_run_folder_that_nodes_do_not_share(here: Path, nodes: RayNodes) -> None:
    site(here / "apart.yaml", nodes.api, here / "token", env={"PYTHONPATH": str(ROOT), "LOOKSAY_GATHER_SECONDS": "3"})
    (job,) = submit("train", "small.yaml", "--run", "/tmp/alone", at="apart.yaml")
    try:
        assert ended(nodes, job) == "FAILED"
        said = looksay("status", "/tmp/alone", "--json")["job"]["reason"]
        assert "the folder is not shared between the nodes; choose one on a shared file system with --run" in said
    finally:
        shutil.rmtree("/tmp/alone", ignore_errors=True)


def test_code_that_is_sent_along(here: Path, nodes: RayNodes) -> None:
    """Nodes without looksay: the code comes with the job, and paths are whole."""
    site(here / "sent.yaml", nodes.api, here / "token", working_dir=str(ROOT), env={})
    words = ["data", "build", f"{here}/photos", f"{here}/sent"]
    assert "where sent would be lost: name recipe, data and run by whole paths" in looksay(
        *("submit", "--site", "sent.yaml", *words[:3], "sent"), code=2
    )
    (job,) = submit(*words, at="sent.yaml")
    assert ended(nodes, job) == "COMPLETED", log_of(job)
    tar = "00000.tar"
    assert contents(here / "sent")[tar] == contents(here / "data")[tar] and "gcs://" in Path(job["script"]).read_text()


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("wrong", "does not take the token of "),
        (None, "wants a token and there is none in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"),
    ],
)
def test_tokens(here: Path, nodes: RayNodes, token: str | None, said: str) -> None:
    if token is not None:
        (here / "other").write_text(token)
    site(here / "stranger.yaml", nodes.api, None if token is None else here / "other")
    error = looksay("submit", "--site", "stranger.yaml", "train", "small.yaml", "--run", "refused", code=2)
    assert said in error and error.count("\n") == 1 and "wrong" not in error
    assert not Path("refused").exists()


def test_no_secret_lies_open(here: Path, nodes: RayNodes, straight: dict[int, float]) -> None:
    """Neither in requests, logs and notes of the jobs before, nor on command lines."""
    secret = nodes.token["RAY_AUTH_TOKEN"].encode()
    files = [path for path in here.rglob("*") if path.is_file() and path.name != "token"]
    assert len(files) > 50 and not [path for path in files if secret in path.read_bytes()]
    assert not [line for line in command_lines() if secret in line]
