"""Requests to Ray, tokens, answers and exit codes, where there is no Ray."""

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.place import Node, find_node, node_environment
from cluster.rayjobs import driver
from cluster.rayjobs.api import JobsApi, NotFound
from cluster.rayjobs.child import Child
from cluster.rayjobs.package import package_of
from cluster.rayjobs.placement import missing_of
from cluster.rayjobs.reaping import descendants
from cluster.rayjobs.starts import Stop, code_of
from cluster.rayjobs.tokens import find_token, write_secret
from cluster.schedulers.choose import scheduler_of_job
from cluster.schedulers.job import Job
from cluster.schedulers.ray_jobs import RayJobs, state_of
from cluster.scratch import CACHES, cache_environment, job_folder
from configs.errors import RunError, UserError
from configs.scheduler import SchedulerConfig

ROOT = Path(__file__).resolve().parents[2]
NASTY = [
    "a b",
    "it's",
    '"q"',
    "$(touch broke_out)",
    "`touch broke_out`",
    "; touch broke_out #",
    "back\\slash",
    "",
    "--",
]
SECRET = "5ecre7"


def job(**changed: Any) -> Job:
    given = {
        "name": "a job",
        "words": ("train", "x.yaml"),
        "folder": "/runs/a/logs",
        "cwd": "/he re",
        "shown": "looksay submit",
    }
    return Job(**{**given, **changed})


def request_of(config: dict[str, Any], **changed: Any) -> dict[str, Any]:
    site = RayJobs(SchedulerConfig.model_validate({"type": "ray", **config}), "site")
    return dict(json.loads(site.render(job(**changed))))


def options_of(entrypoint: str) -> tuple[dict[str, str], list[str]]:
    words = shlex.split(entrypoint)
    start, cut = words.index("cluster.rayjobs.driver") + 1, words.index("--")
    return dict(zip(words[start:cut:2], words[start + 1 : cut : 2], strict=True)), words[cut + 1 :]


def test_a_request_for_training() -> None:
    config = {
        "gpus_per_node": 8,
        "cpus_per_node": 32,
        "min_nodes": 2,
        "wait_seconds": 60,
        "max_requeues": 5,
        "env": {"A": "b"},
    }
    told = request_of(config, nodes=4, ranks_per_node=8, after=("one",))
    options, words = options_of(told["entrypoint"])
    assert options == {
        "--folder": "/runs/a/logs",
        "--cwd": "/he re",
        "--after": "one",
        "--nodes": "4",
        "--ranks": "8",
        "--cpus": "32",
        "--gpus": "8",
        "--fewest": "2",
        "--wait": "60",
        "--most": "5",
    }
    assert words[-2:] == ["train", "x.yaml"]
    assert told["runtime_env"] == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60", "PYTHONSAFEPATH": "1", "A": "b"}}


def test_a_request_for_a_build_takes_no_nodes_of_its_own() -> None:
    options, words = options_of(request_of({}, words=("data", "build", "a", "b"))["entrypoint"])
    assert set(options) == {"--folder", "--cwd"} and words[-4:] == ["data", "build", "a", "b"]


def test_what_ray_cannot_do_is_said() -> None:
    with pytest.raises(UserError, match="Ray has no arrays"):
        request_of({}, array="0-3")
    for key, value in (("partition", "gpu"), ("time", "1:00:00"), ("options", {"licenses": "x"})):
        with pytest.raises(ValueError, match=f"{key} is for slurm, and this scheduler is ray: leave it out"):
            SchedulerConfig.model_validate({"type": "ray", key: value})
    with pytest.raises(ValueError, match="address is for ray, and this scheduler is slurm"):
        SchedulerConfig.model_validate({"type": "slurm", "address": "http://head:8265"})
    for address in ("head:8265", "http://me:pw@head:8265", "ftp://head", "http://head/path"):
        with pytest.raises(ValueError, match="is not the address of Ray's Jobs API"):
            SchedulerConfig.model_validate({"type": "ray", "address": address})


def test_values_stay_values(tmp_path: Path) -> None:
    """The entrypoint is a line for a shell; what it runs gets the words as they were."""
    (tmp_path / "set $(touch broke_out) up.sh").write_text("export SEEN='set up'\n")
    spy = tmp_path / "spy"
    spy.write_text(
        f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], os.environ.get('SEEN')]))\n"
    )
    spy.chmod(0o755)
    config = {"looksay": str(spy), "setup_files": [str(tmp_path / "set $(touch broke_out) up.sh")]}
    line = request_of(config, words=tuple(NASTY), folder=str(tmp_path / "lo gs"), cwd=str(tmp_path))["entrypoint"]
    line = line.replace(shlex.quote(str(tmp_path / "python")), sys.executable, 1)
    done = subprocess.run(
        line,
        shell=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [NASTY, "set up"]
    assert (tmp_path / "lo gs" / "ray-job.out").read_text() == done.stdout
    assert not list(tmp_path.rglob("broke_out"))


def test_a_command_on_the_head(tmp_path: Path) -> None:
    told: list[str] = []
    code = driver.run_here(
        [sys.executable, "-c", "print('half', end=''); raise SystemExit(75)"], None, told.append, Stop()
    )
    assert (code, told) == (75, ["half"])
    stop = Stop(asked=True)
    assert driver.run_here([sys.executable, "-c", "import time; time.sleep(60)"], None, told.append, stop) == 128 + 15
    with pytest.raises(RunError, match="nothing-there does not start here"):
        driver.run_here(["nothing-there"], None, told.append, Stop())
    assert driver.main(["--cwd", str(tmp_path / "gone"), "--", "true"]) == 93


def test_output_is_whole_and_in_order() -> None:
    lines = 20000
    child = Child([sys.executable, "-c", f"for k in range({lines}): print(k, 'b\\u00e4r')"])
    text, code = "", None
    while code is None:
        code, part = child.look()
        text += part
    assert code == 0 and text.splitlines() == [f"{k} b\u00e4r" for k in range(lines)]


def test_a_node_that_a_driver_placed() -> None:
    node = Node(1, 2, 4, ("10.0.0.1", "10.0.0.2"), "10.0.0.1", 29500, "a-1", "a-1.3")
    assert find_node(node_environment(node)) == node
    with pytest.raises(UserError, match="LOOKSAY_NODE=7 in the environment is beyond the 2 nodes"):
        find_node({**node_environment(node), "LOOKSAY_NODE": "7"})


@pytest.mark.parametrize(
    ("codes", "lost", "code"),
    [
        ([0, 0], [False, False], 0),
        ([75, None], [False, True], 75),
        ([0, None], [False, True], 75),
        ([None, None], [True, True], 75),
        ([75, 93], [False, False], 93),
        ([2, 75], [False, False], 2),
        ([1, 75], [False, False], 75),
        ([93, None], [False, True], 93),
        ([1, 0], [False, False], 1),
    ],
)
def test_exit_codes(codes: list[int | None], lost: list[bool], code: int) -> None:
    assert code_of(codes, lost) == code


def test_what_is_missing() -> None:
    have = [{"CPU": 8.0, "GPU": 8.0}, {"CPU": 8.0}]
    said = missing_of(2, {"CPU": 4, "GPU": 8}, have)
    assert said == "the job needs 2 nodes with 4 CPU and 8 GPU each, and the cluster has 1 (of 2 nodes)"
    assert missing_of(1, {"CPU": 4}, have).endswith("has 2, but others use them")


def test_tokens_are_found_where_ray_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_token({})[0] is None
    (tmp_path / ".ray").mkdir()
    write_secret(tmp_path / ".ray/auth_token", "home")
    assert (tmp_path / ".ray/auth_token").stat().st_mode & 0o777 == 0o600
    write_secret(tmp_path / "named", "named\n")
    assert find_token({})[0] == "home"
    assert find_token({"RAY_AUTH_TOKEN_PATH": f"{tmp_path}/named"})[0] == "named"
    assert find_token({"RAY_AUTH_TOKEN": "env"}) == ("env", "RAY_AUTH_TOKEN")
    assert find_token({"RAY_AUTH_TOKEN": "env"}, f"{tmp_path}/named")[0] == "named"
    with pytest.raises(
        UserError, match=r"none cannot be read .No such file or directory.: correct scheduler.token_file"
    ):
        find_token({}, f"{tmp_path}/none")
    (tmp_path / "named").write_text("two\nlines")
    with pytest.raises(UserError, match="holds no token of Ray"):
        find_token({}, f"{tmp_path}/named")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An HTTP server whose answer is set by the test; `seen` are the tokens that came."""

    class Handler(BaseHTTPRequestHandler):
        answer: tuple[int, str] = (200, "{}")
        seen: list[str | None] = []

        def do_GET(self) -> None:
            self.seen.append(self.headers.get("Authorization"))
            code, text = self.answer
            self.send_response(code)
            if code == 307:
                self.send_header("Location", text)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            return

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    Handler.seen = []
    own = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=own.serve_forever, daemon=True).start()
    yield Handler, f"http://127.0.0.1:{own.server_port}"
    own.shutdown()
    own.server_close()


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ((401, "no"), UserError, "does not take the token of RAY_AUTH_TOKEN"),
        ((403, "no"), UserError, "does not take the token of RAY_AUTH_TOKEN"),
        ((200, "<html>"), UserError, "is not Ray's Jobs API"),
        ((200, "{}"), UserError, "is not Ray's Jobs API"),
        ((404, "nothing"), UserError, "is not Ray's Jobs API"),
        ((404, "Job x does not exist"), NotFound, "does not know it"),
        ((500, "Traceback\nValueError: odd"), RunError, "did not do it .ValueError: odd."),
    ],
)
def test_answers_that_are_refusals(server: Any, answer: tuple[int, str], error: type[Exception], said: str) -> None:
    handler, address = server
    handler.answer = answer
    with pytest.raises(error, match=said) as caught:
        JobsApi(address).version()
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value)


def test_a_token_is_never_taken_elsewhere(server: Any) -> None:
    handler, address = server
    handler.answer = (307, f"{address}/stolen")
    with pytest.raises(UserError):
        JobsApi(address).version()
    assert handler.seen == [f"Bearer {SECRET}"], "a redirect was followed"


def test_nobody_answers() -> None:
    with pytest.raises(
        UserError, match=r"no Ray answers at http://127.0.0.1:1 .Connection refused.: start its head"
    ) as caught:
        JobsApi("http://127.0.0.1:1").version()
    assert "\n" not in str(caught.value)
    states = scheduler_of_job({"scheduler": "ray", "address": "http://127.0.0.1:1"}).states(["a"])
    assert states["a"].state == "UNKNOWN" and "no Ray answers" in states["a"].reason


def test_states() -> None:
    told = {"status": "FAILED", "message": "it says:\nlooksay: it broke\n", "start_time": 1000, "end_time": 61000}
    state = state_of("a", told)
    assert (state.state, state.reason, state.run_seconds, state.waits_or_runs) == ("FAILED", "it broke", 60.0, False)
    assert state_of("a", {"status": "RUNNING", "message": "runs"}).waits_or_runs
    assert not state_of("a", {"status": "STOPPED"}).waits_or_runs


def test_a_checkout_has_one_name_and_another_when_it_changes(tmp_path: Path) -> None:
    for name in ("configs", "data_pipeline", "cluster", "pretrain"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    first = package_of(str(tmp_path))
    (tmp_path / "pretrain" / "__pycache__").mkdir()
    (tmp_path / "pretrain" / "__pycache__" / "x.pyc").write_text("made")
    assert package_of(str(tmp_path)) == first
    (tmp_path / "pretrain" / "more.py").write_text("1")
    assert package_of(str(tmp_path))[0] != first[0]
    with pytest.raises(UserError, match=r"is no checkout of looksay .it has no configs/"):
        package_of(str(tmp_path / "pretrain"))


def test_a_folder_of_this_job_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    name = f"test-{os.getpid()}"
    folder = job_folder(name)
    try:
        assert folder.stat().st_mode & 0o777 == 0o700 and str(os.getuid()) in folder.name
        told = cache_environment({"TRITON_CACHE_DIR": "/mine"}, name)
        assert set(told) == set(CACHES) - {"TRITON_CACHE_DIR"} and all(
            v.startswith(f"{folder}/") for v in told.values()
        )
        folder.chmod(0o777)
        with pytest.raises(RunError, match="is not this user's alone"):
            job_folder(name)
    finally:
        folder.rmdir()


def test_descendants_are_found() -> None:
    child = subprocess.Popen(["bash", "-c", "sleep 60 & wait"])
    try:
        end = 200
        while len(descendants(child.pid)) < 1 and (end := end - 1):
            threading.Event().wait(0.05)
        assert child.pid in descendants(os.getpid()) and len(descendants(child.pid)) == 1
    finally:
        for pid in descendants(child.pid):
            os.kill(pid, 9)
        child.kill()
        child.wait()
