"""The house's stairs: imports go down only, and what is heavy is imported late."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {"configs": 0, "data_pipeline": 1, "cluster": 1, "pretrain": 2}
FORMAT = {"data_pipeline.sample", "data_pipeline.storage", "data_pipeline.shard", "data_pipeline.manifest"}
FILES = sorted(path for package in FLOORS for path in (ROOT / package).rglob("*.py"))
HEAVY = ("torch", "ray", "numpy", "pyarrow", "deepspeed", "megatron", "PIL", "transformers", "webdataset")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Every module that a tree imports, late imports too. `from a import b` counts as a and as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}: write it out"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def broken_rule(module: str, imported: str) -> str | None:
    """The rule that `module` breaks by importing `imported`."""
    here, there = module.split(".")[0], imported.split(".")[0]
    if there in FLOORS:
        if FLOORS[there] > FLOORS[here]:
            return "imports go down only"
        if FLOORS[there] == FLOORS[here] and there != here:
            return "data_pipeline and cluster never meet"
    if here == "data_pipeline" and there in ("torch", "deepspeed", "megatron"):
        return "data_pipeline never imports torch"
    if there == "ray" and room_of(module) == "cluster.rayjobs":
        return None  # late: see below
    if here in ("configs", "cluster") and there in HEAVY:
        return f"{here} imports nothing heavy"
    rooms = {"data_pipeline.ingest", "data_pipeline.stream"}
    if room_of(imported) in rooms and here == "data_pipeline" and room_of(module) != room_of(imported):
        return "ingest and stream meet only at the dataset format"
    if room_of(imported) == "pretrain.cli" and room_of(module) != "pretrain.cli":
        return "nothing imports the command"
    return None


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_down(path: Path) -> None:
    broken = [
        f"{module_of(path)} imports {name}: {rule}"
        for name in imports_of(ast.parse(path.read_text()))
        if (rule := broken_rule(module_of(path), name))
    ]
    assert not broken


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("configs.load", "data_pipeline.storage"),
        ("configs.load", "numpy"),
        ("data_pipeline.shard", "cluster.place"),
        ("cluster.place", "data_pipeline.shard"),
        ("cluster.place", "ray"),
        ("cluster.rayjobs.driver", "torch"),
        ("data_pipeline.stream.loader", "torch.nn"),
        ("data_pipeline.stream.loader", "data_pipeline.ingest.decode"),
        ("data_pipeline.ingest.job", "data_pipeline.stream.chat"),
        ("data_pipeline.shard", "data_pipeline.ingest.cut"),
        ("data_pipeline.stream.chat", "pretrain.mesh"),
        ("pretrain.session", "pretrain.cli.run"),
    ],
)
def test_the_rules_refuse_what_they_are_for(module: str, imported: str) -> None:
    assert broken_rule(module, imported)


def test_cluster_imports_ray_late() -> None:
    files = [path for path in FILES if room_of(module_of(path)) == "cluster.rayjobs"]
    assert files and not [path for path in files if any(m.split(".")[0] == "ray" for m in _imports_at_load(path))]


def test_no_two_modules_import_each_other() -> None:
    """Circles among modules, counting only what is imported when a module loads."""
    modules = {module_of(path): path for path in FILES}
    below = {name: {m for m in _imports_at_load(path) if m in modules and m != name} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"a circle of imports: {' -> '.join([*trail, name])}"
        if name not in done:
            for other in sorted(below[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in modules:
        visit(name, ())


def _imports_at_load(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports_of(ast.Module([node], []))


def loaded_by(arguments: list[str]) -> set[str]:
    """Top-level modules in a fresh interpreter after one command."""
    code = (
        "import sys, io, contextlib\n"
        "from pretrain.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    code = main({arguments!r})\n"
        "assert code == 0, code\n"
        "print(' '.join({name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["recipes"], ["train", "--help"], ["data", "build", "--help"]], ids=" ".join
)
def test_answers_at_once_load_no_library(arguments: list[str]) -> None:
    assert not loaded_by(arguments) & {*HEAVY, "pydantic", "yaml", "tokenizers"}


@pytest.mark.parametrize("arguments", [["recipes", "demo_sft"], ["recipes", "--schema"]], ids=" ".join)
def test_looking_at_recipes_loads_nothing_heavy(arguments: list[str]) -> None:
    assert not loaded_by(arguments) & {*HEAVY, "tokenizers"}
