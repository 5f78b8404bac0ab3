"""The command in-process: what verbs print and hand on, exit codes, dry runs that write nothing."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pretrain.session
from configs.errors import REQUEUE, RunError
from configs.listing import header_of
from configs.load import find_recipes, load_recipe
from data_pipeline.sample import key_of
from pretrain.cli import start
from pretrain.cli.main import main, make_parser
from tests.flows.test_mistakes import contents

ROOT = Path(__file__).resolve().parents[2]


def verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Every verb that does something, by its whole name."""
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found |= verbs(child) or {child.prog: child}
    return found


VERBS = verbs(make_parser())
WRITERS = [
    "demo",
    "data build",
    "data index",
    "data tokenizer",
    "train",
    "evaluate",
    "report",
    "recipes",
    "data show",
    "checkpoint prune",
    "import",
    "export",
    "convert",
    "fetch",
    "submit",
    "cancel",
]
READERS = [
    "recipes",
    "inspect",
    "data index",
    "data verify",
    "data show",
    "data pack",
    "data stream",
    "generate",
    "evaluate",
    "data build",
    "checkpoint list",
    "checkpoint verify",
    "checkpoint prune",
    "import",
    "export",
    "convert",
    "fetch",
    "estimate",
    "submit",
    "status",
    "cancel",
    "doctor",
]
RECIPE_VERBS = ["recipes", "inspect", "data build", "data pack", "data stream", "train", "estimate"]


def test_the_verbs_are_those_of_the_design() -> None:
    expected = {*WRITERS, *READERS, *RECIPE_VERBS}
    assert set(VERBS) == {f"looksay {name}" for name in expected}


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_verb_has_examples_that_parse(name: str) -> None:
    parser = VERBS[name]
    assert parser.epilog is not None
    examples = [
        line.strip().split(" > ")[0] for line in parser.epilog.splitlines() if line.strip().startswith("looksay ")
    ]
    assert examples, f"{name} has no example"
    for example in examples:
        space = make_parser().parse_args(shlex.split(example)[1:])
        assert callable(space.handler)


@pytest.mark.parametrize(("option", "names"), [("--json", READERS), ("--dry-run", WRITERS), ("--set", RECIPE_VERBS)])
def test_options_that_verbs_share(option: str, names: list[str]) -> None:
    lacking = [name for name in names if option not in VERBS[f"looksay {name}"].options()]  # type: ignore[attr-defined]
    assert not lacking


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for name in VERBS:
        assert name.split()[-1] in said, f"--help does not speak of {name}"
    assert main([]) == 2


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (RunError("the disk died"), 1, "looksay: the disk died"),
        (type("Stop", (RunError,), {"exit_code": REQUEUE})("asked to stop"), 75, "looksay: asked to stop"),
        (KeyboardInterrupt(), 130, "looksay: interrupted"),
        (FileNotFoundError(2, "x", "some/file"), 1, "looksay: some/file: No such file or directory"),
    ],
)
def test_exit_codes(
    raised: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def handler(space: object) -> int:
        raise raised

    monkeypatch.setattr(start, "_inspect", handler)
    assert main(["inspect", "tiny_train"]) == code
    assert capsys.readouterr().err.startswith(said)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def handler(space: object) -> int:
        raise OSError("no file, no disk: ours")

    monkeypatch.setattr(start, "_inspect", handler)
    with pytest.raises(OSError, match="ours"):
        main(["inspect", "tiny_train"])


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = [sys.executable, "-m", "pretrain.cli.main", "recipes", "--schema"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_recipes_lists_all_and_shows_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [recipe["name"] for recipe in listed] == sorted(find_recipes())
    assert main(["recipes", "tiny_train", "--set", "seed=5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 5


def test_a_copied_recipe_is_the_same_recipe(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "demo_sft", "--set", "seed=3", "--copy", "copy.yaml"]) == 0
    assert load_recipe("copy.yaml") == load_recipe("demo_sft", ["seed=3"])
    assert Path("copy.yaml").read_text().startswith("# looksay train demo_sft")
    capsys.readouterr()
    assert main(["recipes", "copy.yaml", "--diff", "demo_sft", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ["seed: 3 -> 0"]


def test_a_build_is_reused_and_says_so(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(world)
    assert main(["data", "build", "photos", "data", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["reused"] is True
    assert (said["rows"], said["kept"], said["rejected"]) == (6, 6, {})
    assert contents(world) == before


def test_a_build_counts_what_it_rejects(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/2.png").write_bytes(b"junk")
    Path("photos/4.txt").write_text("")
    assert main(["data", "build", "photos", "out", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["rows"], said["kept"]) == (6, 4)
    assert said["rejected"] == {"decode/not_a_picture": 1, "filter/empty_text": 1}


def test_a_dataset_is_shown_and_proven(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", "data", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert main(["data", "show", "data"]) == 0
    assert "6" in capsys.readouterr().out
    tar = Path("data/00000.tar")
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    assert main(["data", "verify", "data", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"]


def test_rows_of_ranks_are_the_rows_of_the_step(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(*words: str) -> list[dict[str, Any]]:
        assert (
            main(["data", "stream", "mine.yaml", "--json", "--no-decode", "--set", "parallel.rows_per_rank=2", *words])
            == 0
        )
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    alone = rows("--steps", "2")
    parts = [row for rank in ("0", "1") for row in rows("--steps", "2", "--rank", rank, "--of", "2")]
    assert len(alone) == 16
    assert {row["key"] for one in alone for row in one["samples"]} == {key_of(n) for n in range(6)}
    place = [
        (row["step"], row["row"], row["samples"]) for row in sorted(parts, key=lambda row: (row["step"], row["row"]))
    ]
    assert place == [(row["step"], row["row"], row["samples"]) for row in alone]


def test_train_hands_on_the_resolved_recipe(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Any] = []
    monkeypatch.setattr(pretrain.session, "run_jobs", lambda *args: handed.append(args))
    assert main(["train", "mine.yaml", "--set", "stage.steps=30", "--set", "parallel.ranks=3", "--until", "7"]) == 0
    [(jobs, ranks, logs)] = handed
    assert ranks == 3 and str(logs) == "runs/mine/logs"
    assert jobs == [
        {
            "verb": "train",
            "recipe": "runs/mine/logs/recipe.yaml",
            "run": "runs/mine",
            "until": 7,
            "resume_from": None,
            "time_limit": None,
        }
    ]
    assert load_recipe(jobs[0]["recipe"]) == load_recipe("mine.yaml", ["stage.steps=30", "parallel.ranks=3"])
    # The launcher has written there, and the same command must go on.
    assert main(["train", "mine.yaml", "--set", "stage.steps=30"]) == 0


@pytest.mark.parametrize(
    "command",
    [
        "train mine.yaml",
        "data build photos out",
        "data tokenizer data --out other",
        "data show data --html gallery.html",
        "recipes tiny_train --copy copy.yaml",
        "evaluate run --data data",
        "report run",
        "demo --folder demo",
    ],
)
def test_a_dry_run_writes_nothing(command: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(world)
    assert main([*command.split(), "--dry-run"]) == 0
    assert "would " in capsys.readouterr().out
    assert contents(world) == before
    assert not Path("runs").exists() and not os.path.exists("demo")


SHELL = re.compile(r"(?:\s{2,}|\s[>#|&]|;)(?=(?:[^']*'[^']*')*[^']*$)")
"""Where a command of a line ends: at a comment or an operator that no quotes are around."""


def documented() -> list[str]:
    """Commands in the fenced blocks of README, CONTRIBUTING and docs, and in the headers of recipes."""
    texts = [path.read_text() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]]
    blocks = [block for text in texts for block in re.findall(r"(?ms)^```\w*\n(.*?)^```", text)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [line for path in find_recipes().values() for line in header_of(path).splitlines()]
    commands = [part.strip() for line in lines for part in SHELL.split(line)]
    return sorted({command.removeprefix("$ ") for command in commands if re.match(r"(\$ )?looksay \w", command)})


@pytest.mark.parametrize("command", documented())
def test_documented_commands_parse(command: str) -> None:
    assert callable(make_parser().parse_args(shlex.split(command)[1:]).handler)
