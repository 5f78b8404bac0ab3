"""The script of a SLURM job as text: what a shell makes of it, without SLURM."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from cluster.schedulers.job import Job
from cluster.schedulers.slurm import state_of
from cluster.schedulers.slurm_script import log_of, render
from cluster.schedulers.slurm_words import as_comment, directive, shell_word
from configs.errors import UserError
from configs.scheduler import SchedulerConfig
from configs.site import load_site

NASTY = ["two words", "it's", '"quoted"', "$(touch broke_out)", "`touch broke_out`", "a;touch broke_out", "*", "", "~"]
NASTY += ["a\nb", "\\", "-x"]


def job(**changed: object) -> Job:
    given = {"name": "mine", "words": ("train", "mine.yaml"), "folder": "/runs/mine/logs", "cwd": "/here"}
    return Job(**{**given, "shown": "looksay", **changed})  # type: ignore[arg-type]


def site(**given: object) -> SchedulerConfig:
    return SchedulerConfig.model_validate({"type": "slurm", **given})


def play(folder: Path, script: str, code: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run a script where srun notes its words and environment and then does `code`; the queue says RUNNING or $FAKE_STATE."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name, body in {
        "srun": f'printf "%s\\0" "$@" > {folder}/words; env -0 > {folder}/env; {code}',
        "squeue": 'echo "${FAKE_STATE:-RUNNING}"',
        "scontrol": f'echo "$@" >> {folder}/scontrol; exit 1',
        "module": f'printf "%s\\0" "$@" >> {folder}/modules',
    }.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    path = folder / "script.sh"
    path.write_text(script)
    given = {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", **env}
    return subprocess.run(["bash", str(path)], cwd=folder, env=given, capture_output=True, text=True, timeout=30)


def words_of(path: Path) -> list[str]:
    return path.read_text().split("\0")[:-1]


def test_words_and_values_reach_the_command_as_they_are(tmp_path: Path) -> None:
    config = site(
        env={f"V{k}": value for k, value in enumerate(NASTY)},
        modules=[word for word in NASTY if word and "\n" not in word],
        container={"runtime": "apptainer", "image": "an $(touch broke_out) image.sif", "mounts": ["/data set:/data"]},
        gpus_per_node=2,
    )
    done = play(tmp_path, render(job(words=("train", *NASTY), cwd="/he re"), config), "exit 0")
    assert done.returncode == 0, done.stderr
    words = words_of(tmp_path / "words")
    assert words[-len(NASTY) :] == NASTY
    start = words.index("apptainer")
    assert words[start : start + 5] == ["apptainer", "exec", "--nv", "--pwd", "/he re"]
    inside = words[start + 5 : -len(NASTY)]
    assert inside == [
        *("--bind", "/he re", "--bind", "/data set:/data"),
        *("an $(touch broke_out) image.sif", "looksay", "train"),
    ]
    seen = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().split("\0") if "=" in line)
    assert [seen[f"V{k}"] for k in range(len(NASTY))] == NASTY
    assert words_of(tmp_path / "modules")[1::2] == list(config.modules)
    assert not list(tmp_path.rglob("broke_out"))


def test_a_container_of_srun(tmp_path: Path) -> None:
    config = site(container={"runtime": "pyxis", "image": "an image.sqsh", "mounts": ["/data"]})
    assert play(tmp_path, render(job(), config), "exit 0").returncode == 0
    words = words_of(tmp_path / "words")
    assert {"--container-image=an image.sqsh", "--container-mounts=/here:/here,/data:/data"} <= set(words)
    assert words[-3:] == ["looksay", "train", "mine.yaml"]


def test_the_number_of_a_task_is_put_in_by_the_shell(tmp_path: Path) -> None:
    text = render(job(words=("data", "build", "a {task:03} $(x).csv", "{task}"), array="0-9"), site())
    done = play(tmp_path, text, "exit 0", SLURM_ARRAY_TASK_ID="8")
    assert done.returncode == 0, done.stderr
    assert words_of(tmp_path / "words")[-2:] == ["a 008 $(x).csv", "8"]
    assert shlex.split(shell_word("{task}x")) == ["$SLURM_ARRAY_TASK_IDx"]


BUSY = "for k in 1 2 3 4 5 6 7 8 9; do sleep 0.1; done"


@pytest.mark.parametrize(
    ("code", "state", "restarts", "queued"),
    [
        ("exit 0", "RUNNING", "0", False),
        ("exit 75", "RUNNING", "0", True),
        ("exit 75", "COMPLETING", "0", False),  # cancelled
        ("exit 75", "RUNNING", "5", False),
        ("exit 1", "RUNNING", "0", False),
        ("exit 2", "RUNNING", "0", False),
        ("exit 93", "RUNNING", "0", False),
        ("kill -9 $$", "RUNNING", "0", False),
        (f'trap "exit 75" USR1; kill -USR1 "$PPID"; {BUSY}; exit 0', "RUNNING", "0", True),
        ('kill -USR1 "$PPID"; sleep 5', "RUNNING", "0", True),  # a command that does not know USR1
        (f'trap "exit 0" USR1; kill -USR1 "$PPID"; {BUSY}; exit 75', "RUNNING", "0", False),  # done just in time
        (f'trap "exit 1" USR1; kill -USR1 "$PPID"; {BUSY}; exit 75', "RUNNING", "0", False),  # failed just then
    ],
)
def test_only_what_another_start_continues_is_queued_again(
    code: str, state: str, restarts: str, queued: bool, tmp_path: Path
) -> None:
    # The shell sends USR1 to itself through srun's parent, as SLURM does shortly before the limit.
    text = render(job(), site(max_requeues=5))
    done = play(tmp_path, text, f"sleep 0.2; {code}", FAKE_STATE=state, SLURM_RESTART_COUNT=restarts)
    asked = (tmp_path / "scontrol").read_text() if (tmp_path / "scontrol").exists() else ""
    assert asked == ("requeue 7\n" if queued else ""), done.stdout + done.stderr
    if code.startswith("exit"):
        assert done.returncode == int(code.split()[1])


def test_directives_say_what_the_site_says() -> None:
    config = site(
        partition="gpu",
        account="team",
        time="1-00:00:00",
        gpus_per_node=8,
        gpu_type="h100",
        cpus_per_node=96,
        memory_per_node="0",
        exclusive=True,
        signal_seconds=300,
        options={"licenses": "a b"},
    )
    text = render(job(nodes=64, after=("5", "6"), folder="/100%/logs"), config)
    asked = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert asked == [
        *("job-name=mine", "chdir=/here", "output=/100%%/logs/slurm-%j.out", "open-mode=append", "partition=gpu"),
        *("account=team", "nodes=64", "ntasks-per-node=1", "cpus-per-task=96", "gpus-per-node=h100:8", "mem=0"),
        *("exclusive", "time=1-00:00:00", "dependency=afterok:5:6", "kill-on-invalid-dep=yes", "signal=B:USR1@300"),
        *("requeue", 'licenses="a b"'),
    ]
    assert "srun --nodes=64 --ntasks=64 --ntasks-per-node=1 --cpus-per-task=96" in text
    assert log_of(job(folder="/100%/logs"), "9") == "/100%/logs/slurm-9.out"
    assert log_of(job(array="0-9"), "9") == "/runs/mine/logs/slurm-9_*.out"


def test_no_line_break_leaves_a_comment_or_a_directive() -> None:
    assert all(line.startswith("# ") for line in as_comment("one\ntwo\rthree\u2028four\x85five"))
    with pytest.raises(UserError, match="has a line break"):
        directive("job-name", "a\n#SBATCH --uid=0")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scheduler: {type: slurm, partitoin: a}", "unknown key scheduler.partitoin: did you mean 'partition'?"),
        ("scheduler: slrum", "'slurm' or 'ray'"),
        ("scheduler: {type: slurm, time: 2:00:00}", "7200 is not a time such as '2:00:00'.*write it so, in quotes"),
        ('scheduler: {type: slurm, partition: "a\\nb"}', "must be one line"),
        ("scheduler: {type: slurm, env: {WANDB_API_KEY: x}}", "WANDB_API_KEY looks like a secret.*mode 600"),
        ("scheduler: {type: slurm, env: {PROXY: 'http://me:word@host'}}", "PROXY looks like a secret"),
        ("scheduler: {type: slurm, env: {'A;B': x}}", "not a name of an environment variable"),
        ("scheduler: {type: slurm, options: {'-x y': z}}", "not a long option of sbatch"),
        (
            "scheduler: {type: slurm, signal_seconds: 5}",
            "signal_seconds is 5: input should be greater than or equal to 60",
        ),
        ("extends: h200-8x", "no site is called 'h200-8x': did you mean 'h100-8x'?"),
        ("extends: bad.yaml", "extends itself"),
    ],
)
def test_a_wrong_site_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        load_site(str(path))
    assert "\n" not in str(caught.value) and "word@" not in str(caught.value)


def test_a_site_extends_another(tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text(
        "extends: h100-8x\nscheduler: {type: slurm, account: team}\nhardware: {nodes: 4}\n"
    )
    (tmp_path / "debug.yaml").write_text("extends: ours.yaml\nscheduler: {partition: debug}\n")
    found, below = load_site(str(tmp_path / "debug.yaml")), load_site("h100-8x")
    assert found.scheduler is not None and found.hardware is not None and below.hardware is not None
    assert (found.scheduler.account, found.scheduler.partition, found.hardware.nodes) == ("team", "debug", 4)
    assert found.hardware.memory_gb == below.hardware.memory_gb


def test_states_of_a_job_and_of_an_array() -> None:
    line = "JobId=7 JobName=a b JobState={} Reason={} Restarts=2 RunTime=00:01:30 TimeLimit=1-00:00:00 NodeList={} Comment=x=y"
    state = state_of("7", [line.format("RUNNING", "None", "n[1-2]")])
    assert (state.state, state.restarts, state.nodes) == ("RUNNING", 2, "n[1-2]")
    assert (state.run_seconds, state.limit_seconds) == (90.0, 86400.0)
    over = state_of("7", [line.format("COMPLETED", "None", "n1"), line.format("PENDING", "Resources", "(null)")])
    assert (over.state, over.reason, over.nodes) == ("PENDING", "Resources", "")


@pytest.mark.parametrize("folder", ["disk", "own $(touch broke_out) disk"])
def test_the_environment_goes_to_the_nodes_own_disk(tmp_path: Path, folder: str) -> None:
    """The rendered steps run: srun stands for one node. The program is the unpacked one, and nothing stays behind."""
    env = tmp_path / "env"
    (env / "bin").mkdir(parents=True)
    (env / "bin" / "python").write_text('#!/bin/bash\n[ "$1" = -c ] || printf "%s\\n" "$0" "$@" >> "$SEEN"\n')
    (env / "bin" / "python").chmod(0o755)
    archive = tmp_path / "an env.tar"
    subprocess.run(["tar", "-C", str(env), "-cf", str(archive), "."], check=True)
    local = tmp_path / folder
    local.mkdir()
    config = site(stage_env={"archive": str(archive), "folder": str(local)}, ranks_per_node=1)
    run = 'while [ "${1#--}" != "$1" ]; do shift; done; "$@"'
    done = play(tmp_path, render(job(nodes=1), config), run, SEEN=str(tmp_path / "seen"))
    assert done.returncode == 0, done.stderr + done.stdout
    seen = (tmp_path / "seen").read_text().splitlines()
    assert seen == [
        f"{local}/looksay-{os.getuid()}-7/bin/python",
        "-P",
        "-m",
        "pretrain.cli.main",
        "train",
        "mine.yaml",
    ]
    assert not list(local.iterdir()) and not list(tmp_path.rglob("broke_out"))


def test_an_environment_that_cannot_be_unpacked_ends_the_job(tmp_path: Path) -> None:
    config = site(stage_env={"archive": str(tmp_path / "none.tar"), "folder": str(tmp_path)}, ranks_per_node=1)
    done = play(tmp_path, render(job(), config), 'while [ "${1#--}" != "$1" ]; do shift; done; "$@"')
    assert done.returncode == 1 and "could not be unpacked" in done.stdout


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stage_env": {"archive": "x.tar", "folder": "tmp"}}, "is not a whole path"),
        ({"stage_env": {"archive": "x.tar"}, "looksay": "/bin/looksay"}, "leave one out"),
        (
            {"stage_env": {"archive": "x.tar"}, "container": {"runtime": "pyxis", "image": "x.sqsh"}},
            "stage_env and container both say",
        ),
        ({"stage_env": {"archive": "x.tar"}, "type": "ray"}, "stage_env is for slurm"),
    ],
)
def test_staging_that_cannot_work_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        site(**given)
