"""`looksay submit | status | cancel` as a user meets them, where there is no SLURM."""

import json
from pathlib import Path

import pytest

from cluster.schedulers.job import State
from pretrain.cli.main import main
from pretrain.run_status import status_of, text_of
from tests.house.test_imports import HEAVY, loaded_by

SITE = "scheduler: {type: slurm, partition: low, ranks_per_node: 2, time: '1:00:00'}\n"


@pytest.fixture
def site(world: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    Path("site.yaml").write_text(SITE)
    monkeypatch.setenv("PATH", "/nowhere")
    return str(world / "site.yaml")


def test_submit_and_status_load_nothing_heavy(world: Path) -> None:
    """A login node has neither torch nor Ray. What a recipe's check needs (pydantic, YAML) is all."""
    (world / "site.yaml").write_text(SITE)
    (world / "ray.yaml").write_text("scheduler: {type: ray, ranks_per_node: 2}")
    for command in (
        ["submit", "--site", f"{world}/site.yaml", "--dry-run", "train", f"{world}/mine.yaml"],
        ["submit", "--site", f"{world}/site.yaml", "--dry-run", "data", "build", f"{world}/build.yaml"],
        ["submit", "--site", f"{world}/ray.yaml", "--dry-run", "train", f"{world}/mine.yaml"],
        ["status", f"{world}/run"],
    ):
        assert not loaded_by(command) & {*HEAVY, "tokenizers"}, command
    assert not loaded_by(["submit", "--help"]) & {*HEAVY, "pydantic", "yaml"}


def test_a_dry_run_shows_the_script_and_writes_nothing(site: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().rglob("*"))
    words = ["data", "build", "photos", "out", "+", "train", "mine.yaml", "+", "evaluate", "runs/mine"]
    assert main(["submit", "--site", site, "--dry-run", "--json", "--nodes", "2", *words]) == 0
    build, train, evaluate = json.loads(capsys.readouterr().out)["jobs"]
    assert sorted(Path().rglob("*")) == before
    assert (build["nodes"], train["nodes"], evaluate["nodes"]) == (2, 2, 2)
    assert "-m cluster.rayjobs.own --folder" in build["script"] and "--store-mb 256 --" in build["script"]
    assert "cluster.rayjobs" not in train["script"]
    assert build["folder"].endswith("/out.jobs") and train["folder"].endswith("runs/mine/logs")
    assert "export LOOKSAY_RANKS_PER_NODE=2" in train["script"] and "LOOKSAY_RANKS" not in build["script"]
    assert main(["submit", "--site", site, "--dry-run", "train", "mine.yaml"]) == 0
    assert "would submit mine:\n\n#!/bin/bash\n# Made by: looksay submit --site" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "mine.yaml"], "no SLURM on this machine (sbatch is not on PATH): submit on a login node"),
        (["train", "mien.yaml"], "recipe file mien.yaml does not exist"),
        (
            ["trian", "mine.yaml"],
            "submit does not know what to do with 'trian mine.yaml': use one of train, data build",
        ),
        (["train", "mine.yaml", "--sett", "a=b"], "no option '--sett': did you mean '--set'?"),
        (["train", "mine.yaml", "--dry-run"], "--dry-run belongs to submit: put it before the command"),
        ([], "submit has no command: add one"),
        (["train", "mine.yaml", "+"], "submit has no command: add one"),
        (
            ["--nodes", "3", "train", "mine.yaml", "--set", "parallel.tp=4"],
            "parallel.tp 4 does not divide 3 nodes x 2 ranks",
        ),
        (["--nodes", "2", "export", "run", "out"], "export runs on one node: leave out --nodes"),
        (
            ["--nodes", "2", "data", "build", "photos", "out", "--workers", "0"],
            "this data build runs without Ray or on one elsewhere, so on one node: leave out --nodes",
        ),
        (["--time", "90", "train", "mine.yaml"], "--time: '90' is not a time such as '2:00:00'"),
        (["--array", "0-3", "data", "build", "photos", "out"], "--array without {task} in the command"),
        (["data", "build", "photos", "out-{task}"], "{task} stands for the number of an array's job"),
        (["--array", "x", "data", "build", "photos", "{task}"], "--array 'x' is not a list of numbers"),
        (["evaluate", "nothing"], "nothing is not a run (it has no config.yaml)"),
        (["train", "mine.yaml", "--set", "stage.start_from=later"], "stage.start_from later is not a run"),
        (["data", "build", "http://me:secret@host/x.parquet", "out"], "http://***@host/x.parquet holds a password"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], said: str, site: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--site", site, *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and "secret@" not in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scheduler: {type: ray, address: 'http://127.0.0.1:1'}", "no Ray answers at http://127.0.0.1:1"),
        ("scheduler: {type: ray, partition: low}", "partition is for slurm, and this scheduler is ray: leave it out"),
        ("extends: laptop\nhardware: {nodes: 9}", "names no scheduler: run the command without submit"),
        ("extends: h100-8x\nscheduler: slurm\nhardware: {nodes: 4}", "--nodes 9 is more than site"),
    ],
)
def test_a_site_that_cannot_take_it(text: str, said: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.yaml").write_text(text)
    assert main(["submit", "--site", "other.yaml", "--nodes", "9", "train", "mine.yaml"]) == 2
    assert said in capsys.readouterr().err


def test_a_dry_run_for_ray_shows_the_request(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ray.yaml").write_text("scheduler: {type: ray, ranks_per_node: 2, nodes: 3}")
    assert main(["submit", "--site", "ray.yaml", "--dry-run", "train", "mine.yaml"]) == 0
    text = capsys.readouterr().out
    request = json.loads(text[text.index("{") :])
    assert "-m cluster.rayjobs.driver" in request["entrypoint"] and "--nodes 3 --ranks 2" in request["entrypoint"]
    Path("large.yaml").write_text("extends: h100-8x\nscheduler: {type: ray}")
    assert main(["submit", "--site", "large.yaml", "--dry-run", "train", "mine.yaml"]) == 0
    assert "--ranks 8 --cpus 8 --gpus 8" in capsys.readouterr().out
    assert main(["submit", "--site", "ray.yaml", "--nodes", "2", "data", "build", "photos", "out"]) == 2
    assert "data build uses all nodes of a Ray cluster: leave out --nodes" in capsys.readouterr().err


def test_status_of_a_run_that_nobody_submitted(site: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = {"step": 10, "loss": 2.5, "seconds": {"total": 2.0}, "tokens_per_s": 1000.0, "wall": 0.0}
    Path("run/metrics.jsonl").write_text("".join(json.dumps({**line, "step": step}) + "\n" for step in range(1, 11)))
    Path("run/status.json").write_text(json.dumps({"state": "running", "step": 10, "steps": 200}))
    assert main(["status", "run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["step"], told["steps"], told["loss"], told["eta_seconds"], told["job"]) == (10, 200, 2.5, 380.0, None)
    assert told["checkpoint"]["step"] == 10
    assert main(["status", "run"]) == 0
    out = capsys.readouterr().out
    assert "10 of 200 (5%)" in out and "to go       6 min" in out
    assert main(["status", "photos"]) == 2
    assert "photos is not a run, and nothing was submitted for it" in capsys.readouterr().err
    assert main(["cancel", "run"]) == 2
    assert "nothing was submitted for run: stop what runs on this machine with Ctrl-C" in capsys.readouterr().err


def test_status_speaks_of_the_job_that_runs() -> None:
    jobs = [{"id": str(k), "log": f"{k}.out"} for k in range(1, 4)]
    states = {
        "1": State("1", "COMPLETED"),
        "2": State("2", "RUNNING", "", 3, "n[1-2]"),
        "3": State("3", "PENDING", "Dependency"),
    }
    told = status_of(Path("none"), jobs, states)
    assert (told["job"]["id"], told["job"]["restarts"], told["job"]["then"]) == ("2", 3, ["3"])
    assert "job         2: RUNNING on n[1-2], queued again 3 times" in text_of(told)
    assert status_of(Path("none"), jobs, {**states, "2": State("2", "FAILED")})["job"]["id"] == "3"
    gone = status_of(Path("none"), jobs, {})
    assert gone["job"]["id"] == "3" and "not in the queue any more" in text_of(gone)
