"""Every planted mistake: its sentence, its exit code, nothing half-written, other data unharmed; no rank ever starts."""

import errno
import glob
import hashlib
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import cluster.launch
from data_pipeline.manifest import read_manifest, write_manifest
from data_pipeline.shard_table import ShardTable
from pretrain.cli.main import main

GROUPS = yaml.safe_load((Path(__file__).parent / "mistakes.yaml").read_text())
MISTAKES = [mistake for group in GROUPS.values() for mistake in group]
FINAL = ("manifest.json", "tokenizer.json", "config.yaml", "COMMIT", "evaluation.json")
"""Names whose presence says that something is whole."""


def plant(how: dict[str, Any]) -> None:
    """Spoil the files of the world, which is the working folder."""
    for path, text in how.get("write", {}).items():
        Path(path).write_text(text)
    for pattern, text in how.get("overwrite", {}).items():
        for path in glob.glob(pattern):
            Path(path).write_text(text)
    for path, (old, new) in how.get("replace", {}).items():
        before = Path(path).read_text()
        assert old in before, f"{path} has no {old!r}: nothing was planted"
        Path(path).write_text(before.replace(old, new))
    for pattern in how.get("remove", []):
        found = glob.glob(pattern)
        assert found, f"{pattern} is not there: nothing was planted"
        for path in found:
            Path(path).unlink()
    if "shards" in how:
        manifest = read_manifest("data")
        write_manifest(
            "data", replace(manifest, shards=ShardTable([replace(e, **how["shards"]) for e in manifest.shards]))
        )
    for path, size in how.get("cut", {}).items():
        os.truncate(path, size)


def surround(how: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """Spoil what is around the command while it runs: its environment, the disk."""
    for name, value in how.get("environment", {}).items():
        patch.setenv(name, value)

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if how.get("full_disk"):
        patch.setattr(os, "fsync", fsync)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def pattern_of(sentence: str) -> str:
    """`...` stands for any words."""
    return ".*".join(re.escape(part.strip()) for part in sentence.split(" ... "))


def test_there_are_enough_and_none_twice() -> None:
    names = [mistake["mistake"] for mistake in MISTAKES]
    assert len(names) >= 50
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake["mistake"] for mistake in MISTAKES])
def test_mistake(
    mistake: dict[str, Any], world: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_ranks(*args: object, **kwargs: object) -> None:
        raise AssertionError("ranks were started on bad input")

    monkeypatch.setattr(cluster.launch, "launch", no_ranks)
    how = mistake.get("plant", {})
    assert set(how) <= {"write", "overwrite", "replace", "remove", "cut", "shards", "environment", "full_disk"}
    plant(how)
    before = contents(world)
    with monkeypatch.context() as patch:
        surround(how, patch)
        code = main(shlex.split(mistake["command"]))
    said = capfd.readouterr().err
    assert code == mistake.get("exit", 2), said
    assert re.search(pattern_of(mistake["says"]), " ".join(said.split())), said
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("looksay: ")]) == 1, said

    after = contents(world)
    assert {name: after.get(name) for name in before} == before, "other data was changed"
    new = set(after) - set(before)
    assert not [name for name in new if Path(name).name.startswith(".looksay-")], "a temporary file was left"
    assert not [name for name in new if Path(name).name in FINAL], "something unfinished stands at a final name"
