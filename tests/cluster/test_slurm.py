"""Jobs on a real SLURM of three nodes: time limits, a dead node, failures, chains, and what SLURM refuses."""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pretrain.run_folder import steps_of
from tests.flows.conftest import good_world  # noqa: F401  (a fixture)
from tests.support import slurm
from tests.support.slurm import SlurmNodes, metrics

ROOT = Path(__file__).resolve().parents[2]
WHY_NOT = slurm.missing()
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]

STEPS = 36
RECIPE = """extends: mine.yaml
model:
  encoder: {width: 32, depth: 1, heads: 2, mlp_width: 32}
  decoder: {layers: 1, width: 32, heads: 2, kv_heads: 1, mlp_width: 32}
data: {packing: {length: 128, rows_per_step: 2, window_steps: 2}}
stage: {steps: STEPS}
optim: {warmup_steps: 0}
parallel: {rows_per_rank: 1, timeout_seconds: 60}
checkpoint: {every: 10}
log: {to: []}
"""
SITE = """scheduler:
  type: slurm
  partition: low
  time: '0:10:00'
  nodes: 2
  ranks_per_node: 1
  cpus_per_node: 1
  signal_seconds: 60
  env: {OMP_NUM_THREADS: '1', PYTHONPATH: ROOT}
"""


@pytest.fixture(scope="module")
def nodes(good_world: Path) -> Iterator[SlurmNodes]:  # noqa: F811
    """The cluster, and the world of tests/flows in a folder that all nodes see."""
    with tempfile.TemporaryDirectory(prefix="looksay-slurm-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        shutil.copytree(good_world, folder / "world")
        (folder / "world" / "small.yaml").write_text(RECIPE.replace("STEPS", str(STEPS)))
        (folder / "world" / "site.yaml").write_text(SITE.replace("ROOT", str(ROOT)))
        (folder / "slurm").mkdir()
        with SlurmNodes(3, folder / "slurm") as cluster:
            yield cluster


@pytest.fixture
def here(nodes: SlurmNodes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared folder with the recipe and the site."""
    monkeypatch.chdir(nodes.folder.parent / "world")
    return Path.cwd()


def looksay(*words: str, code: int = 0) -> Any:
    """Run the command; returns its JSON, or what it says on stderr where another exit code is due."""
    command = [sys.executable, "-P", "-m", "pretrain.cli.main", *words]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout) if code == 0 else done.stderr


def submit(*words: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = looksay("submit", "--site", "site.yaml", "--json", *words)["jobs"]
    return told


def ended(nodes: SlurmNodes, number: str, seconds: float = 120) -> str:
    """Wait for a job's end; returns its state."""
    over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "DEADLINE")
    nodes.wait(lambda: nodes.job(number)["JobState"] in over, seconds, f"the end of job {number}")
    return nodes.job(number)["JobState"]


def losses(run: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in metrics(run) if "loss" in line}


@pytest.fixture(scope="module")
def straight(nodes: SlurmNodes) -> dict[int, float]:
    """Losses of a run that nobody disturbs, trained after its dataset: two jobs, the second only when the first is done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(nodes.folder.parent / "world")
        build = ["data", "build", "photos", "chained", "--set", "ray.workers=0"]
        train = ["train", "small.yaml", "--run", "straight", "--set", "data.sources=[{path: chained, name: data}]"]
        first, second = submit(*build, "+", *train)
        assert second["after"] == [first["id"]]
        assert nodes.job(second["id"])["Dependency"].startswith(f"afterok:{first['id']}")
        assert ended(nodes, second["id"]) == "COMPLETED", Path(second["log"]).read_text()
        assert nodes.job(first["id"])["JobState"] == "COMPLETED"
        return losses(Path("straight"))


def train(run: str, *more: str) -> dict[str, Any]:
    (job,) = submit("--nodes", "2", *more, "train", "small.yaml", "--run", run)
    return job


def reach(nodes: SlurmNodes, job: dict[str, Any], run: str, step: int) -> None:
    """Wait until a run is at a step."""

    def there() -> bool:
        return max(losses(Path(run)), default=0) >= step

    try:
        nodes.wait(there, 120, f"step {step} of {run}")
    except AssertionError as error:
        raise AssertionError(f"{error}; its log: {Path(job['log']).read_text()}") from None


def test_a_job_reaches_its_time_limit_twice_and_finishes(
    here: Path, nodes: SlurmNodes, straight: dict[int, float]
) -> None:
    job = train("limited")
    for restart in (1, 2):
        reach(nodes, job, "limited", max(steps_of(Path("limited")), default=0) + 4)
        nodes.throttle("250kbit")
        nodes.expire(job["id"], 50)
        nodes.wait(lambda n=restart: int(nodes.job(job["id"])["Restarts"]) == n, 60, f"requeue {restart}")
        nodes.throttle(None)
        if restart == 1:
            told = looksay("status", "limited", "--json")
            assert told["checkpoint"]["step"] >= 4 and told["job"]["id"] == job["id"] and told["job"]["restarts"] == 1
    assert ended(nodes, job["id"]) == "COMPLETED", Path(job["log"]).read_text()
    assert losses(Path("limited")) == straight
    told = looksay("status", "limited", "--json")
    assert told["state"] == "done" and told["step"] == STEPS and told["starts"] == 3 and told["failures"] == 0
    assert Path(job["log"]).read_text().count("queues again") == 2


def test_a_node_dies_and_the_others_finish(here: Path, nodes: SlurmNodes, straight: dict[int, float]) -> None:
    job = train("orphaned")
    reach(nodes, job, "orphaned", 12)
    try:
        nodes.crash("n2")
        assert ended(nodes, job["id"]) == "COMPLETED", Path(job["log"]).read_text()
        said = nodes.job(job["id"])
        assert said["NodeList"] == "n[1,3]" and int(said["Restarts"]) == 1
        assert losses(Path("orphaned")) == straight
    finally:
        nodes.boot("n2")


def test_what_is_cancelled_stays_so(here: Path, nodes: SlurmNodes) -> None:
    job = train("stopped")
    reach(nodes, job, "stopped", 3)
    assert looksay("cancel", "stopped", "--json", "--dry-run") == {"cancelled": [job["id"]], "dry_run": True}
    assert nodes.job(job["id"])["JobState"] == "RUNNING"
    assert looksay("cancel", "stopped", "--json")["cancelled"] == [job["id"]]
    assert ended(nodes, job["id"]) == "CANCELLED"
    time.sleep(2)
    assert nodes.job(job["id"])["JobState"] == "CANCELLED" and int(nodes.job(job["id"])["Restarts"]) == 0
    assert steps_of(Path("stopped")), "the time until SLURM kills is enough for a checkpoint"
    assert looksay("cancel", "stopped", "--json") == {"cancelled": []}


def test_a_failing_job_is_tried_twice_and_what_follows_it_never_starts(here: Path, nodes: SlurmNodes) -> None:
    Path("broken").mkdir()
    # Every rank fails the same way, after it met the others.
    Path("broken/sitecustomize.py").write_text(
        "from cluster.preempt import Stop\n\ndef fail(self):\n    raise ValueError('planted')\n\nStop.__enter__ = fail\n"
    )
    site = SITE.replace("ROOT", f"'{here}/broken:{ROOT}'")
    Path("broken.yaml").write_text(site)
    words = ["train", "small.yaml", "--run", "failing", "+", "train", "small.yaml", "--run", "never"]
    told = looksay("submit", "--site", "broken.yaml", "--json", "--nodes", "2", *words)["jobs"]
    assert ended(nodes, told[0]["id"]) == "FAILED"
    log = Path(told[0]["log"]).read_text()
    assert nodes.job(told[0]["id"])["ExitCode"] == "93:0" and int(nodes.job(told[0]["id"])["Restarts"]) == 1, log
    assert "planted" in log
    assert ended(nodes, told[1]["id"]) == "CANCELLED"
    assert not Path("never/config.yaml").exists()


def test_a_run_folder_that_nodes_do_not_share_is_noticed(here: Path, nodes: SlurmNodes) -> None:
    folder = nodes.folder / "private" / "alone"
    for name in nodes.names:
        nodes.inside(name, "mkdir", "-p", f"{folder}/logs")
    Path("quick.yaml").write_text(SITE.replace("ROOT", f"{ROOT}, LOOKSAY_GATHER_SECONDS: '3'"))
    words = ["--nodes", "2", "train", "small.yaml", "--run", str(folder)]
    (job,) = looksay("submit", "--site", "quick.yaml", "--json", *words)["jobs"]
    assert ended(nodes, job["id"], 60) == "FAILED"
    said = nodes.inside(nodes.job(job["id"])["BatchHost"], "cat", job["log"])
    assert "the folder is not shared between the nodes; choose one on a shared file system with --run" in said
    assert nodes.job(job["id"])["ExitCode"] == "93:0" and int(nodes.job(job["id"])["Restarts"]) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--partition", "lwo"], "this SLURM has no partition 'lwo': did you mean 'low'?"),
        (["--nodes", "4"], "4 nodes are more than partition low has: it has 3; give fewer with --nodes"),
        (
            ["--partition", "guarded", "--account", "other"],
            "SLURM does not take account 'other' on partition guarded: `sacctmgr show associations user=$USER` lists yours",
        ),
    ],
    ids=["partition", "nodes", "account"],
)
def test_what_slurm_refuses_is_one_sentence(here: Path, nodes: SlurmNodes, options: list[str], said: str) -> None:
    error = looksay("submit", "--site", "site.yaml", *options, "train", "small.yaml", "--run", "refused", code=2)
    assert said in error and error.count("\n") == 1


NASTY = """a b's "c" $(touch broke_out) `touch broke_out` ; touch broke_out # \\ end"""


def test_values_stay_values(here: Path, nodes: SlurmNodes, tmp_path: Path) -> None:
    """A job whose name, comment, environment, folder and arguments hold everything that a shell or sbatch could take amiss."""
    home = here / "it's a $(touch broke_out) %j folder"
    home.mkdir()
    shutil.copytree("photos", home / "photos")
    site: dict[str, Any] = {"type": "slurm", "partition": "low", "options": {"comment": NASTY}, "time": "0:10:00"}
    site["env"] = {"NASTY": NASTY + "\nsecond line", "PYTHONPATH": str(ROOT)}
    site["setup_files"] = [str(home / "set up $(touch broke_out).sh")]
    Path(site["setup_files"][0]).write_text("trap 'printf %s \"$NASTY\" > seen' EXIT\n")
    site["setup_files"].insert(0, str(home / "first.sh"))
    Path(site["setup_files"][0]).write_text("true\n")
    (home / "site.yaml").write_text(json.dumps({"scheduler": site}))
    with contextlib.chdir(home):
        build = ["data", "build", "photos", "out $(touch broke_out)", "--set", "ray.workers=0"]
        (job,) = submit(*build)
        assert ended(nodes, job["id"]) == "COMPLETED", Path(job["log"]).read_text()
        assert Path("out $(touch broke_out)/manifest.json").exists()
        assert job["log"] == f"{home}/out $(touch broke_out).jobs/slurm-{job['id']}.out"
        assert Path(job["log"]).is_file() and job["follow"] == f"tail -F {shlex.quote(job['log'])}"
        assert Path("seen").read_text() == NASTY + "\nsecond line"
    told = subprocess.run(["scontrol", "show", "job", job["id"]], capture_output=True, text=True, check=True).stdout
    assert f"Comment={NASTY}" in told
    assert not list(here.rglob("broke_out"))
