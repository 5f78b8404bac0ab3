"""Every planted mistake: its sentence, its exit code, nothing half-written, other data unharmed; no rank ever starts."""

import hashlib
import re
from pathlib import Path

import pytest

import cluster.launch
from pretrain.cli.main import main
from tests.flows.mistakes import MISTAKES, Mistake

FINAL = ("manifest.json", "tokenizer.json", "config.yaml", "COMMIT", "evaluation.json")
"""Names whose presence says that something is whole."""


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_there_are_enough_and_none_twice() -> None:
    names = [mistake.name for mistake in MISTAKES]
    assert len(names) >= 50
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_mistake(mistake: Mistake, world: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_ranks(*args: object, **kwargs: object) -> None:
        raise AssertionError("ranks were started on bad input")

    monkeypatch.setattr(cluster.launch, "launch", no_ranks)
    mistake.plant()
    before = contents(world)
    with monkeypatch.context() as patch:
        mistake.patch(patch)
        code = main(list(mistake.argv))
    said = capfd.readouterr().err
    assert code == mistake.code, said
    assert re.search(mistake.sentence, " ".join(said.split())), said
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("looksay: ")]
    assert len(lines) == 1, said

    after = contents(world)
    assert {name: after.get(name) for name in before} == before, "other data was changed"
    new = set(after) - set(before)
    assert not [name for name in new if Path(name).name.startswith(".looksay-")], "a temporary file was left"
    assert not [name for name in new if Path(name).name in FINAL], "something unfinished stands at a final name"
