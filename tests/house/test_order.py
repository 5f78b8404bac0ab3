"""The house's order: every file has its line in the docstring of its package, a plain name and a moderate size."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("configs", "data_pipeline", "cluster", "pretrain")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FOLDERS = sorted({path.parent for path in FILES})
MOST_LINES = 300
EMPTY_NAMES = re.compile(r"(^|_)(utils?|helpers?|common|misc|stuff|v\d+|new|old)(_|$)")
ONLY_DEVICES = ROOT / "pretrain" / "mesh.py"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Every text file under version control."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, timeout=30, check=True)
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if not name or not path.is_file():
            continue
        try:
            yield name, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_the_package_says_what_each_file_is_for(folder: Path) -> None:
    start = folder / "__init__.py"
    assert start.exists(), f"{name_of(folder)} has no __init__.py"
    tree = ast.parse(start.read_text())
    text = ast.get_docstring(tree) or ""
    assert len(tree.body) == 1 and text, f"{name_of(start)} is a docstring and nothing else"
    inside = [path.stem for path in folder.glob("*.py") if path.name != "__init__.py"]
    inside += [path.name for path in folder.iterdir() if path.is_dir() and any(path.rglob("*.py"))]
    missing = [name for name in inside if not re.search(rf"(?m)^[\s`*-]*{re.escape(name)}(\.py|/)?[\s`]+\S", text)]
    assert not missing, f"{name_of(start)} does not say what {missing} is for"
    said = re.findall(r"(?m)^\s*([a-z_]+\.py)\s", text)
    gone = [name for name in said if not (folder / name).exists()]
    assert not gone, f"{name_of(start)} speaks of {gone}, which is not there"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_small_and_have_a_name_that_says_something(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES, f"{name_of(path)} has {lines} lines"
    assert not EMPTY_NAMES.search(path.stem), f"{name_of(path)}: the name says nothing"
    assert ast.get_docstring(ast.parse(path.read_text())), f"{name_of(path)} has no docstring"


@pytest.mark.parametrize("path", [path for path in FILES if path != ONLY_DEVICES], ids=name_of)
def test_only_the_mesh_knows_devices(path: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"(cpu|cuda)(:\d+)?", node.value)
        ):
            found.append(f"line {node.lineno}: {node.value!r}")
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.cuda":
            found.append(f"line {node.lineno}: torch.cuda")
    assert not found, f"{name_of(path)} {found}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_swallowed_and_nothing_unpickled(path: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler) and all(isinstance(part, ast.Pass) for part in node.body):
            found.append(f"line {node.lineno}: a silent except")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"line {node.lineno}: a bare except")
        if isinstance(node, ast.Import) and any(
            alias.name in ("pickle", "dill", "cloudpickle") for alias in node.names
        ):
            found.append(f"line {node.lineno}: unpickling")
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load"):
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            torch_unsafe = ast.unparse(node.func) == "torch.load" and options.get("weights_only") != "True"
            if torch_unsafe or options.get("allow_pickle", "False") != "False":
                found.append(f"line {node.lineno}: unpickling")
    assert not found, f"{name_of(path)} {found}"


def test_nothing_names_the_machine_it_was_written_on() -> None:
    places = "|".join(["work/(?:main|dev|shared|[.])", "root/", "home/[a-z]"])
    pattern = re.compile(rf"(?<![\w./}}-])/(?:{places})")
    found = [f"{name}: {match.group()}" for name, text in tracked_texts() for match in pattern.finditer(text)]
    assert not found


def test_sources_are_ascii() -> None:
    assert not [name for name, text in tracked_texts() if name.endswith(".py") and not text.isascii()]
