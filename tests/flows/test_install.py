"""The wheel holds everything and trains outside the checkout; the set-up chooses torch as it says (pip is a recorder)."""

import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.flows.test_own_folder import SMALL

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("configs", "data_pipeline", "cluster", "pretrain")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy of the sources (a build leaves its traces beside them)."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [
        *pip,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(folder),
        str(folder / "source"),
    ]
    done = subprocess.run(build, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of a fresh environment with the wheel alone, which borrows the libraries of this one."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--quiet",
        "--python",
        str(folder / "bin/python"),
    ]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)
    site = next(folder.glob("lib/python*/site-packages"))
    # A line of a .pth names a folder whose own .pth files are not read: an editable looksay there stays out.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n" + sysconfig.get_path("platlib") + "\n")
    return folder / "bin"


def run(command: list[str], folder: Path, **more: str) -> str:
    """Run with no tools on PATH: no compiler, no ninja, no activated environment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        command, cwd=folder, env=env | {"PATH": "/nowhere"} | more, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_the_four_packages(wheel: Path) -> None:
    kept = (".py", ".yaml", ".parquet", ".css", ".js", ".html")
    wanted = {
        str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*") if path.suffix in kept
    } | {"data_pipeline/assets/NOTICE"}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert not wanted - held
    assert {name.split("/")[0] for name in held} == set(PACKAGES), "nothing else becomes a package of the user's"


def test_the_installed_command_answers_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = run([str(installed / "python"), "-c", "import configs; print(configs.__file__)"], tmp_path).strip()
    assert Path(where).is_relative_to(installed.parent)
    assert "demo_caption" in run([str(installed / "looksay"), "recipes"], tmp_path)
    assert "0.1.0" in run([str(installed / "looksay"), "--version"], tmp_path)


@pytest.mark.slow
def test_the_installed_command_trains_a_step_beside_packages_of_the_users(
    installed: Path, world: Path, tmp_path: Path
) -> None:
    for name in ("configs", "cluster", "tests"):
        (world / name).mkdir()
        (world / name / "__init__.py").write_text(f"raise ImportError('the {name} package of the user was imported')")
    (world / "small.yaml").write_text(SMALL)
    train = [str(installed / "looksay"), "train", "small.yaml", "--run", "one", "--set", "stage.steps=1"]
    # An empty cache: an operation that an earlier start compiled would hide that this one cannot.
    run(train, world, TORCH_EXTENSIONS_DIR=str(tmp_path / "extensions"))
    steps = [json.loads(line)["step"] for line in (world / "one" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1]


# --- the set-up --------------------------------------------------------------------------------------------------------

TESTED = next(
    line.split("==")[1] for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")
)
RECORDER = """
import json, os, pathlib, sys
words, here = sys.argv[1:], pathlib.Path(__file__).parent.parent
with open(os.environ["RECORD"], "a") as record:
    constraints = [pathlib.Path(words[words.index("-c") + 1]).read_text()] if "-c" in words else []
    record.write(json.dumps(words + constraints) + "\\n")
if "config" in words:
    print(os.environ.get("PIP_SAYS", ""))
elif "--report" in words:
    needs = os.environ.get("TORCH_NEEDS", "sympy").split()
    report = {"install": [{"metadata": {"requires_dist": needs}}]}
    pathlib.Path(words[words.index("--report") + 1]).write_text(json.dumps(report))
elif "install" in words and "--index-url" in words and "UNREACHABLE" in os.environ:
    sys.exit(1)
elif "install" in words:
    for word in words:
        if word.startswith("torch=="):
            info = here / f"torch-{word[7:]}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: torch\\nVersion: {word[7:]}\\n")
"""


@pytest.fixture
def setup(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Runs tools/install.sh in an environment whose pip records what it is told, with stand-ins for tools on PATH."""
    venv, bin_folder = tmp_path / "venv", tmp_path / "bin"
    bin_folder.mkdir()

    def tool(name: str, script: str) -> None:
        (bin_folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (bin_folder / name).chmod((bin_folder / name).stat().st_mode | stat.S_IXUSR)

    tool("nvidia-smi", "exit 1")

    def make_venv(torch: str | None = None) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=60)
        pip = next(venv.glob("lib/python*/site-packages")) / "pip"
        pip.mkdir()
        (pip / "__init__.py").write_text("")
        (pip / "__main__.py").write_text(RECORDER)
        if torch:
            info = pip.parent / f"torch-{torch}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {torch}\n")

    def go(**env: str) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
        record = tmp_path / "record"
        record.write_text("")
        outside = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        given = outside | {"VENV": str(venv), "RECORD": str(record), "PATH": f"{bin_folder}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "tools/install.sh", "demo"], cwd=ROOT, env=given | env, capture_output=True, text=True, timeout=60
        )
        return done, [json.loads(line) for line in record.read_text().splitlines()]

    go.tool, go.make_venv, go.venv = tool, make_venv, venv  # type: ignore[attr-defined]
    return go


def source_of_torch(calls: list[list[str]]) -> str | None:
    """Where torch was installed from: the index named, "pip's own", or None."""
    taken = [call for call in calls if any(word.startswith("torch==") for word in call) and "--report" not in call]
    if not taken:
        return None
    last = taken[-1]
    return last[last.index("--index-url") + 1] if "--index-url" in last else "pip's own"


PUBLIC = "https://download.pytorch.org/whl/"


@pytest.mark.parametrize(
    ("env", "source"),
    [
        ({}, PUBLIC + "cpu"),
        ({"PIP_SAYS": "global.index-url='https://mirror'"}, "pip's own"),
        ({"PIP_SAYS": "global.index-url='https://mirror'", "TORCH_NEEDS": "sympy nvidia-nccl-cu13"}, PUBLIC + "cpu"),
        ({"PIP_FIND_LINKS": "wheels"}, "pip's own"),
        ({"UNREACHABLE": "1"}, "pip's own"),
        ({"TORCH": "cu130"}, PUBLIC + "cu130"),
        ({"TORCH": "cpu"}, PUBLIC + "cpu"),
    ],
    ids=["plain", "mirror with CPU build", "mirror with CUDA build", "folder", "no answer", "CUDA asked", "CPU asked"],
)
def test_torch_comes_from_where_it_should(setup, env: dict[str, str], source: str) -> None:  # type: ignore[no-untyped-def]
    setup.make_venv()
    done, calls = setup(**env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert source_of_torch(calls) == source
    assert f"torch {TESTED}" in done.stdout, "it says what it takes and why"
    assert (setup.venv / "installed-demo").exists()


def test_a_gpu_gets_a_cuda_build(setup) -> None:  # type: ignore[no-untyped-def]
    setup.make_venv()
    setup.tool("nvidia-smi", "echo 'GPU 0: NVIDIA H100'")
    done, calls = setup()
    assert source_of_torch(calls) == "pip's own"
    assert "a GPU was found" in done.stdout


def test_the_torch_that_is_there_is_kept(setup) -> None:  # type: ignore[no-untyped-def]
    setup.make_venv(torch="2.9.1+cu128")
    done, calls = setup()
    assert done.returncode == 0, done.stdout + done.stderr
    assert source_of_torch(calls) is None
    assert "torch 2.9.1+cu128 is in the environment already: kept" in done.stdout
    constraints = calls[-1][-1]
    assert "torch==2.9.1+cu128" in constraints and f"torch=={TESTED}" not in constraints


def test_a_complete_set_up_is_left_alone(setup) -> None:  # type: ignore[no-untyped-def]
    setup.make_venv()
    setup()
    (setup.venv / "bin" / "looksay").write_text("#!/bin/sh\n")  # what pip would have written
    (setup.venv / "bin" / "looksay").chmod(0o755)
    done, calls = setup(TORCH="cu130")
    assert done.returncode == 0 and not calls
    assert "complete already" in done.stdout and "TORCH=cu130 is for a new environment" in done.stdout


def test_a_second_set_up_takes_the_same_environment(setup) -> None:  # type: ignore[no-untyped-def]
    setup.make_venv()
    setup()
    seconds = (setup.venv / "install-seconds").read_text()
    (setup.venv / "install-seconds").write_text("77")
    done, calls = setup()
    assert seconds.strip().isdigit()
    assert "new environment" not in done.stdout
    assert source_of_torch(calls) is None
    assert (setup.venv / "install-seconds").read_text() == "77", "the seconds of the first one are the set-up's"


@pytest.mark.parametrize(
    ("tools", "env", "sentence"),
    [
        ({"uname": "echo Darwin"}, {}, "runs on Linux only (this is Darwin)"),
        ({"uname": "echo MINGW64_NT-10.0"}, {}, "runs on Linux only (this is MINGW64_NT-10.0)"),
        ({}, {"TORCH": "rocm"}, "TORCH=rocm is not a build of torch"),
        ({"old": "exit 1"}, {"PYTHON": "old"}, "no Python 3.11, 3.12 or 3.13"),
    ],
    ids=["macOS", "Windows", "TORCH", "Python"],
)
def test_what_cannot_be_set_up_is_said_in_one_sentence(setup, tools, env, sentence: str) -> None:  # type: ignore[no-untyped-def]
    for name, script in tools.items():
        setup.tool(name, script)
    done, calls = setup(**env)
    assert done.returncode == 2
    assert sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not calls and not setup.venv.exists(), "before any download"


def test_a_folder_that_is_no_environment_is_left_alone(setup) -> None:  # type: ignore[no-untyped-def]
    setup.venv.mkdir()
    (setup.venv / "thesis.txt").write_text("mine")
    done, calls = setup()
    assert done.returncode == 2 and "is not an environment" in done.stderr
    assert not calls and [path.name for path in setup.venv.iterdir()] == ["thesis.txt"]
