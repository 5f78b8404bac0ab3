"""A data build that brings up a Ray of its own inside a real SLURM allocation of two nodes, and leaves nothing behind."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data_pipeline.conftest import contents
from tests.flows.conftest import good_world  # noqa: F401  (a fixture)
from tests.support import slurm
from tests.support.ray_nodes import command_lines
from tests.support.slurm import SlurmNodes

ROOT = Path(__file__).resolve().parents[2]
WHY_NOT = slurm.missing()
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]
SITE = f"""scheduler:
  type: slurm
  partition: low
  time: '0:10:00'
  cpus_per_node: 1
  signal_seconds: 60
  env: {{PYTHONPATH: '{ROOT}'}}
"""


@pytest.fixture(scope="module")
def nodes(good_world: Path) -> Iterator[SlurmNodes]:  # noqa: F811
    with tempfile.TemporaryDirectory(prefix="looksay-own-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        shutil.copytree(good_world, folder / "world")
        (folder / "world" / "site.yaml").write_text(SITE)
        (folder / "slurm").mkdir()
        with SlurmNodes(2, folder / "slurm") as cluster:
            yield cluster


@pytest.fixture
def here(nodes: SlurmNodes, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(nodes.folder.parent / "world")
    return Path.cwd()


def looksay(*words: str) -> Any:
    """Run the command; returns its JSON."""
    command = [sys.executable, "-P", "-m", "pretrain.cli.main", *words]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def submit(*words: str) -> dict[str, Any]:
    """Submit a build on two nodes; returns its job."""
    told: list[dict[str, Any]] = looksay("submit", "--site", "site.yaml", "--json", "--nodes", "2", *words)["jobs"]
    return told[0]


def ended(nodes: SlurmNodes, job: dict[str, Any]) -> str:
    over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    nodes.wait(lambda: nodes.job(job["id"])["JobState"] in over, 150, f"the end; its log: {log_of(job)}")
    return nodes.job(job["id"])["JobState"]


def log_of(job: dict[str, Any]) -> str:
    return Path(job["log"]).read_text() if Path(job["log"]).exists() else "there is none"


def processes(job: dict[str, Any]) -> list[bytes]:
    """Command lines of what is left of a job's Ray."""
    marks = [f"looksay-{os.getuid()}-{job['id']}-{node}".encode() for node in range(2)]
    return [line for line in command_lines() if any(mark in line for mark in marks)]


def nothing_is_left(nodes: SlurmNodes, job: dict[str, Any], logs: Path) -> None:
    nodes.wait(lambda: not processes(job), 20, f"the end of {processes(job)}")
    assert not list(Path(tempfile.gettempdir()).glob(f"looksay-{os.getuid()}-{job['id']}-*"))
    assert not list(logs.glob("ray-*")), "address and token of the cluster lie about"


def test_a_build_on_two_nodes(here: Path, nodes: SlurmNodes) -> None:
    words = ("data", "build", "photos")
    job = submit(*words, "out", "--set", "unit_size=1")
    seen: list[bytes] = []
    secrets: set[str] = set()
    modes: set[int] = set()

    def going() -> bool:
        for path in (here / "out.jobs").glob("ray-*/head.json"):
            try:
                modes.add(path.stat().st_mode & 0o777)
                secrets.add(json.loads(path.read_text())["token"]["RAY_AUTH_TOKEN"])
            except OSError:  # it is gone when the build ends
                continue
            seen.extend(processes(job))
        return nodes.job(job["id"])["JobState"] not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")

    nodes.wait(going, 150, f"the end; its log: {log_of(job)}")
    assert ended(nodes, job) == "COMPLETED", log_of(job)
    looksay(*words, "alone", "--set", "unit_size=1", "--workers", "0", "--json")
    names = ["manifest.json", "recipe.yaml"]  # which say where the dataset is
    assert contents(here / "out", names) == contents(here / "alone", names)
    assert "on n1, n2: 2 nodes, with a token" in log_of(job)
    raylets = {line for line in seen if b"raylet" in line.split(b"\0")[0]}
    assert {line for line in raylets if b"10.99.7.1" in line} and {line for line in raylets if b"10.99.7.2" in line}
    (secret,) = secrets
    assert modes == {0o600}
    assert not [line for line in seen if secret.encode() in line]
    files = [path for path in (here / "out.jobs").rglob("*") if path.is_file()]
    assert files and not [path for path in files if secret.encode() in path.read_bytes()]
    nothing_is_left(nodes, job, here / "out.jobs")


def test_a_build_that_is_cancelled_or_fails_takes_its_ray_along(here: Path, nodes: SlurmNodes) -> None:
    job = submit("data", "build", "photos", "failing", "--set", "filters.min_side=5000")
    assert ended(nodes, job) == "FAILED" and "rows of failing were rejected" in log_of(job)
    nothing_is_left(nodes, job, here / "failing.jobs")
    job = submit("data", "build", "photos", "stopped", "--set", "unit_size=1")
    nodes.wait(lambda: list((here / "stopped.jobs").glob("ray-*/up-1")), 120, f"Ray; the log: {log_of(job)}")
    subprocess.run(["scancel", job["id"]], check=True, timeout=60)
    assert ended(nodes, job) == "CANCELLED"
    nothing_is_left(nodes, job, here / "stopped.jobs")
