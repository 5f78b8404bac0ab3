"""Local ranks: what each gets, and that one which fails ends the others and is reported. The ranks are tiny scripts."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from cluster.launch import RankFailure, launch
from cluster.ranks import Nursery

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 30.0
"""Seconds after which a test gives up; nothing here takes more than about a second."""


@pytest.fixture(autouse=True, params=["warm", "cold"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are forked, or started afresh."""
    if request.param == "cold":
        monkeypatch.setenv("LOOKSAY_TEST_COLD", "1")
        monkeypatch.setenv("LOOKSAY_WARM", "0")


def ranks_run(folder: Path, body: str, **options: object) -> Path:
    """Launch two ranks that run `body`; returns the folder of their logs."""
    start = "import os, signal, sys, time\ndef main():\n    rank = int(os.environ['RANK'])\n"
    (folder / "play.py").write_text(start + textwrap.indent(body, "    "))
    given = {"ranks": 2, "log_dir": str(folder / "logs"), "env": {"PYTHONPATH": str(folder)}} | options
    nursery = Nursery(
        "play:main", [], os.environ | {"PYTHONPATH": f"{ROOT}:{folder}"}, warm="LOOKSAY_TEST_COLD" not in os.environ
    )
    try:
        launch(nursery, ["one", "two words"], **given)  # type: ignore[arg-type]
    finally:
        nursery.close()
    return folder / "logs"


def is_alive(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + DEADLINE
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"of {pids} some live on"
        time.sleep(0.02)


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + DEADLINE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)
    return path.read_text()


def test_each_rank_gets_its_place_its_arguments_and_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = textwrap.dedent("""
        import json
        names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT OMP_NUM_THREADS PYTHONSAFEPATH"
        print(json.dumps({name: os.environ[name] for name in names.split()} | {"arguments": sys.argv[1:]}))
    """)
    seen: list[int] = []
    logs = ranks_run(tmp_path, body, threads=3, on_start=seen.extend)
    told = [json.loads((logs / f"rank-{rank}.log").read_text().splitlines()[-1]) for rank in range(2)]
    for rank, one in enumerate(told):
        assert (one["RANK"], one["LOCAL_RANK"]) == (str(rank), str(rank))
        assert (one["WORLD_SIZE"], one["LOCAL_WORLD_SIZE"]) == ("2", "2")
        assert one["OMP_NUM_THREADS"] == "3"
        assert one["PYTHONSAFEPATH"] == "1"
        assert one["arguments"] == ["one", "two words"]
    assert told[0]["MASTER_PORT"] == told[1]["MASTER_PORT"]
    assert len(set(seen)) == 2
    shown = capsys.readouterr().out
    assert '"RANK": "0"' in shown, "the console shows rank 0"
    assert '"RANK": "1"' not in shown

    ranks_run(tmp_path, body, threads=3)
    again = json.loads((logs / "rank-0.log").read_text().splitlines()[-1])
    assert again["MASTER_PORT"] != told[0]["MASTER_PORT"], "each start has a port of its own"
    assert (logs / "rank-0.log").read_text().count("--- start") == 2, "a new start keeps the old log"


def test_packages_in_the_working_folder_are_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = tmp_path / "users"
    users.mkdir()
    (users / "play.py").write_text("raise SystemExit('the module of the working folder ran')")
    monkeypatch.chdir(users)
    logs = ranks_run(tmp_path, "print('ours')")
    assert (logs / "rank-1.log").read_text().splitlines()[-1] == "ours"


def test_a_failing_rank_is_reported_and_the_others_are_ended(tmp_path: Path) -> None:
    body = textwrap.dedent("""
        if rank == 0:
            time.sleep(600)
        for line in range(30):
            print("line", line)
        sys.exit(7)
    """)
    pids: list[int] = []
    with pytest.raises(RankFailure) as caught:
        ranks_run(tmp_path, body, on_start=pids.extend)
    failure, said = caught.value, str(caught.value)
    assert (failure.rank, failure.status, failure.exit_code) == (1, 7, 1)
    assert "rank 1 ended with exit code 7" in said
    assert str(tmp_path / "logs" / "rank-1.log") in said
    shown = [line.strip() for line in said.splitlines() if line.strip().startswith("line ")]
    assert shown == [f"line {number}" for number in range(10, 30)], "the last 20 lines"
    wait_until_gone(pids)


@pytest.mark.parametrize("code", [2, 75, 93])
def test_codes_that_mean_something_are_carried(tmp_path: Path, code: int) -> None:
    with pytest.raises(RankFailure) as caught:
        ranks_run(tmp_path, f"sys.exit({code})")
    assert caught.value.exit_code == code


def test_a_killed_rank_is_reported_by_its_signal_and_by_no_line_of_an_earlier_start(tmp_path: Path) -> None:
    ranks_run(tmp_path, "print('of the first start')")
    body = textwrap.dedent("""
        print("ready", flush=True)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    """)
    with pytest.raises(RankFailure) as caught:
        ranks_run(tmp_path, body)
    said = str(caught.value)
    assert "rank 1 ended with signal 9 (SIGKILL)" in said
    assert "ready" in said
    assert "of the first start" not in said
    assert caught.value.exit_code == 1


def test_the_cause_is_named_and_not_who_lost_its_peer(tmp_path: Path) -> None:
    """Rank 0 notices first and aborts by a signal; rank 1, a moment later, says why."""
    body = textwrap.dedent("""
        if rank == 0:
            print("RuntimeError: gloo::IoException: Connection reset by peer", flush=True)
            os.abort()
        time.sleep(0.2)
        print("ValueError: the cause", flush=True)
        sys.exit(1)
    """)
    with pytest.raises(RankFailure, match="the cause") as caught:
        ranks_run(tmp_path, body)
    assert caught.value.rank == 1


def test_a_rank_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.launch.GRACE_SECONDS", 0.3)
    body = textwrap.dedent("""
        if rank == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            open(sys.argv[0] + ".deaf", "w").close()
            time.sleep(600)
        while not os.path.exists(sys.argv[0] + ".deaf"):
            time.sleep(0.01)
        sys.exit(1)
    """)
    pids: list[int] = []
    with pytest.raises(RankFailure) as caught:
        ranks_run(tmp_path, body, on_start=pids.extend)
    assert caught.value.rank == 1
    wait_until_gone(pids)


def test_a_console_that_goes_away_does_not_stop_rank_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> None:
            raise BrokenPipeError("reader left")

    monkeypatch.setattr(sys, "stdout", Gone())
    # More than a pipe holds: a launcher that stopped reading would block the rank.
    logs = ranks_run(tmp_path, "print('x' * 99 + '\\n', end='') if rank else [print('x' * 99) for _ in range(2000)]")
    monkeypatch.undo()
    assert (logs / "rank-0.log").read_text().count("x" * 99) == 2000


PARENT = """
import json, os, sys
from cluster.launch import launch
from cluster.ranks import Nursery

def note(pids):
    with open(sys.argv[1] + ".part", "w") as file:
        json.dump(pids, file)
    import os
    os.rename(sys.argv[1] + ".part", sys.argv[1])

nursery = Nursery("play:main", [], os.environ)
launch(nursery, [], ranks=2, log_dir=sys.argv[2], on_start=note)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
def test_however_the_launcher_ends_no_rank_stays(tmp_path: Path, sent: signal.Signals) -> None:
    (tmp_path / "play.py").write_text("import time\ndef main(): time.sleep(600)")
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    told = tmp_path / "pids.json"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(told), str(tmp_path / "logs")],
        env=env,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # A shell's background job ignores SIGINT, and so would its children: these tests may run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        pids = json.loads(wait_for(told))
        os.kill(parent.pid, sent)
        parent.wait(DEADLINE)
        wait_until_gone(pids)
    finally:
        parent.kill()
        parent.wait()
