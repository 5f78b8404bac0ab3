"""`looksay checkpoint list | verify | prune`, and `train` on a run that is there."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.errors import DONE, FAILED, USAGE
from configs.load import dump_recipe
from pretrain.checkpoint.choose import folder_of
from pretrain.cli.main import main
from pretrain.run_folder import steps_of
from tests.pretrain.training_cases import small_recipe
from tests.support.pool import Pool

CASES = "tests.pretrain.training_cases:"
PARTS: dict[str, Any] = {"parallel": {"zero": 0, "precision": "fp32"}, "checkpoint": {"every": 2, "keep_last": 9}}


@pytest.fixture(scope="module")
def whole(pool: Pool, squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 2, 4 and 6 by two starts."""
    run = tmp_path_factory.mktemp("verbs") / "run"
    for until in (3, 6):
        pool.run(CASES + "trained", 1, world=str(squares), run=str(run), parts=PARTS, until=until)
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def said(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    code = main(["checkpoint", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_list_says_what_there_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(folder_of(run, 4) / "rank-00000.safetensors")
    code, rows = said(capsys, "list", str(run))
    assert code == DONE
    assert [(row["step"], row["generation"], row["complete"]) for row in rows] == [
        (2, 1, True),
        (3, 1, True),
        (4, rows[2]["generation"], False),
        (6, rows[2]["generation"], True),
    ]
    assert rows[2]["reason"] == "rank-00000.safetensors does not have its hash" and rows[0]["reason"] is None


def test_verify_proves_the_samples(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = said(capsys, "verify", str(run), "--samples")
    assert code == DONE and found["samples"]["proved"] and found["samples"]["steps"] == 6
    assert found["samples"]["samples"] > 0 and len(found["samples"]["starts"]) == 2
    flip(folder_of(run, 2) / "state.json")
    assert said(capsys, "verify", str(run))[0] == FAILED
    assert said(capsys, "verify", f"{run}@6")[0] == DONE


@pytest.mark.parametrize(("at", "problem"), [(0, "trained on other samples"), (8, "trained on 9 of")])
def test_a_ledger_of_other_samples_is_found(
    run: Path, at: int, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ledger is changed together with all hashes that vouch for it: only the plan can tell."""
    import hashlib
    from dataclasses import replace

    from pretrain.checkpoint.head import Heads

    folder = folder_of(run, 6)
    data = bytearray((folder / "ledger.bin").read_bytes())
    data[24 + at] = 9
    (folder / "ledger.bin").write_bytes(data)
    listed = json.loads((folder / "files.json").read_bytes())
    listed["files"]["ledger.bin"]["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "files.json").write_text(json.dumps(listed))
    sha = hashlib.sha256((folder / "files.json").read_bytes()).hexdigest()
    heads = Heads(str(run / "checkpoints"))
    heads.change(
        heads.read().generation,
        lambda head: replace(head, entries=tuple(replace(e, sha256=sha) if e.step == 6 else e for e in head.entries)),
    )
    code, found = said(capsys, "verify", str(run), "--samples")
    assert code == FAILED and all(row["complete"] for row in found["checkpoints"])
    assert any(text.startswith("step 2 ") and problem in text for text in found["samples"]["problems"])


def test_prune_keeps_what_it_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = run / "checkpoints" / "step-00000099.g00000001"
    left.mkdir()
    gone = folder_of(run, 2).name
    code, found = said(capsys, "prune", str(run), "--keep-last", "2", "--dry-run")
    assert (
        code == DONE and set(found["removed"]) >= {gone, left.name} and left.exists() and steps_of(run) == [2, 3, 4, 6]
    )
    code, found = said(capsys, "prune", str(run), "--keep-last", "2")
    assert code == DONE and steps_of(run) == [4, 6] and not left.exists()
    assert {path.name for path in (run / "checkpoints").glob("step-*")} == {
        folder_of(run, 4).name,
        folder_of(run, 6).name,
    }
    assert said(capsys, "verify", str(run))[0] == DONE


@pytest.mark.parametrize("words", [["list", "nowhere"], ["verify", "{run}@9"], ["verify", "{run}@x"], []])
def test_what_is_no_run_is_refused(run: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", *(word.format(run=run) for word in words)]) == USAGE
    assert capsys.readouterr().err.count("\n") == 1


def test_a_changed_recipe_is_refused_with_the_way_out(
    run: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(small_recipe(str(squares), **PARTS)))
    command = ["train", str(path), "--run", str(run)]
    assert main([*command, "--set", "optim.betas=[0.8, 0.9]"]) == USAGE
    error = capsys.readouterr().err
    assert "optim.betas: [0.9, 0.95] -> [0.8, 0.9]" in error
    assert f"`looksay train RECIPE --run {run}-2 --set stage.start_from={run}`" in error
    for free in ("parallel.tp=1", "checkpoint.every=50", "optim.max_nonfinite=3", "data.workers=0", "name=other"):
        assert main([*command, "--set", free]) == DONE, free


def test_a_run_that_was_killed_after_its_last_checkpoint_is_finished(
    run: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"state": "running"}))
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(small_recipe(str(squares), **PARTS)))
    assert main(["train", str(path), "--run", str(run)]) == DONE
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    assert "nothing to train" in capsys.readouterr().out
