"""Checkpoints: resumed bitwise, at home in any topology, complete or not taken at all.

Every equality here is of bits: fp32 weights and moments are copied, never computed anew.
"""

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import REQUEUE, UserError
from pretrain.checkpoint.choose import Chosen, chosen, find, latest
from pretrain.checkpoint.choose import folder_of as step_folder
from pretrain.checkpoint.files import entries_of
from pretrain.checkpoint.head import Heads
from pretrain.checkpoint.reading import Checkpoint, weights_sha256
from pretrain.engine import KINDS
from pretrain.run_folder import checkpoints_of, steps_of
from tests.support.pool import Pool

CASES = "tests.pretrain.training_cases:"
TOPOLOGIES: dict[str, tuple[int, dict[str, Any]]] = {
    "fp32, zero 0, alone": (1, {"zero": 0, "precision": "fp32"}),
    "bf16, zero 3 x dp 2": (2, {"zero": 3, "precision": "bf16"}),
    "bf16, zero 3 x tp 2": (2, {"zero": 3, "precision": "bf16", "tp": 2, "rows_per_rank": 2}),
    "bf16, zero 2 x dp 2": (2, {"zero": 2, "precision": "bf16"}),
}
FROZEN = {"projector": 0.01, "decoder": 0.01}

Tensors = dict[tuple[str, str], torch.Tensor]
Runs = Callable[[str], Path]
Sources = dict[str, tuple[Path, list[float]]]


def held(folder: Path) -> Tensors:
    found = Checkpoint(folder)
    return {(kind, name): found.tensor(name, kind) for kind in KINDS for name in found.names(kind)}


def assert_equal(found: Path, wanted: Path) -> Tensors:
    """The same weights and moments, none of them empty."""
    assert weights_sha256(found) == weights_sha256(wanted)
    ours, theirs = held(found), held(wanted)
    assert ours.keys() == theirs.keys()
    assert not [key for key, tensor in ours.items() if not torch.equal(tensor, theirs[key])]
    assert {kind for (kind, _), tensor in ours.items() if tensor.any()} == set(KINDS)
    return ours


def last_of(run: Path, step: int) -> Chosen:
    """What `latest` and `find` give for a step."""
    return chosen(*((lambda root: (root, Heads(root).read().entry(step)))(checkpoints_of(run))))  # type: ignore[arg-type]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def frozen_of(run: Path) -> Path:
    (found,) = (run / "checkpoints").glob("frozen.*")
    return found


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def resumed(pool: Pool, squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A topology's folder with two runs of six steps: `straight`, and `resumed` at step 3."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("resumed")
            ranks, parallel = TOPOLOGIES[name]
            arguments: dict[str, Any] = {"world": str(squares), "folder": str(made[name]), "parallel": parallel}
            pool.run(CASES + "interrupted", ranks, parallel.get("tp", 1), **arguments)
        return made[name]

    return run


@pytest.fixture(scope="module")
def sources(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Runs with checkpoints of steps 1, 2 and 3; losses before and after the third. 3 divides few sizes: padding."""
    found = {}
    for name, ranks, tp in (("zero 3 x dp 3", 3, 1), ("zero 3 x tp 2", 2, 2)):
        run = tmp_path_factory.mktemp("source")
        found[name] = (run, pool.run(CASES + "written", ranks, tp, run=str(run), zero=3)[0])
    return found


@pytest.fixture
def spoilt(sources: Sources, tmp_path: Path) -> Path:
    """A copy of a run of three ranks, to be damaged."""
    return Path(shutil.copytree(sources["zero 3 x dp 3"][0], tmp_path / "run"))


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(resumed: Runs, name: str) -> None:
    straight, again = resumed(name) / "straight", resumed(name) / "resumed"
    assert (steps_of(straight), steps_of(again)) == ([6], [3, 6])
    assert_equal(step_folder(again, 6), step_folder(straight, 6))
    assert weights_sha256(step_folder(again, 3)) != weights_sha256(step_folder(again, 6))
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").open()] for run in (straight, again)]
    for field in ("step", "loss", "grad_norm", "lr", "ids_hash"):
        assert [line[field] for line in lines[0]] == [line[field] for line in lines[1]], field


READERS: dict[str, tuple[int, int, dict[str, Any], float]] = {
    "fp32, zero 0, alone": (1, 1, {"zero": 0}, 1e-6),
    "fp32, zero 3 x tp 2": (2, 2, {"zero": 3}, 1e-6),
    "bf16, zero 1, alone": (1, 1, {"zero": 1, "precision": "bf16"}, 1e-3),
}


@pytest.mark.parametrize("source", ["zero 3 x dp 3", "zero 3 x tp 2"])
@pytest.mark.parametrize("reader", READERS)
def test_another_topology_takes_it_whole(
    pool: Pool, sources: Sources, tmp_path: Path, source: str, reader: str
) -> None:
    """The next step goes on from there: losses measured equal to 5e-8 in fp32 (order of summation), 1.2e-4 in bf16;
    without the moments the second loss moves by 7e-2, with AdamW's count from zero by 1e-2."""
    (run, wanted), (ranks, tp, options, bound) = sources[source], READERS[reader]
    arguments: dict[str, Any] = {"source": str(step_folder(run, 2)), "run": str(tmp_path), **options}
    for losses in pool.run(CASES + "carried", ranks, tp, **arguments):
        np.testing.assert_allclose(losses, wanted, rtol=bound)
    assert_equal(step_folder(tmp_path, 9), step_folder(run, 2))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped byte": (lambda step: flip(step / "rank-00001.safetensors"), "rank-00001.safetensors does not have its"),
    "a cut file": (lambda step: cut(step / "rank-00002.safetensors"), "rank-00002.safetensors has"),
    "a missing file": (lambda step: (step / "rank-00000.safetensors").unlink(), "rank-00000.safetensors is missing"),
    "a missing state": (lambda step: (step / "state.json").unlink(), "state.json is missing"),
    "a changed ledger": (lambda step: (step / "ledger.bin").write_bytes(b"x"), "ledger.bin has 1 of"),
    "a torn list": (lambda step: (step / "files.json").write_text('{"rank'), "files.json does not have its hash"),
    "a missing list": (lambda step: (step / "files.json").unlink(), "files.json is missing"),
    "a file too many": (lambda step: (step / "rank-00007.safetensors").write_bytes(b""), "does not belong to it"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_passed_over(
    spoilt: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil, what = DAMAGE[damage]
    spoil(step_folder(spoilt, 3))
    with caplog.at_level(logging.WARNING):
        assert latest(spoilt) == find(str(spoilt)) == last_of(spoilt, 2)
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert str(step_folder(spoilt, 3)) in caplog.text and what in caplog.text
    assert find(f"{spoilt}@2") == last_of(spoilt, 2)
    with pytest.raises(UserError) as refused:
        find(f"{spoilt}@3")
    sentence = str(refused.value)
    assert str(step_folder(spoilt, 3)) in sentence and what in sentence and "\n" not in sentence


def test_a_damaged_head_is_named_and_the_one_before_is_taken(spoilt: Path, caplog: pytest.LogCaptureFixture) -> None:
    heads = sorted((spoilt / "checkpoints" / "head").iterdir())
    flip(heads[-1])
    with caplog.at_level(logging.WARNING):
        assert latest(spoilt) == last_of(spoilt, 2)
    assert f"{heads[-1]} is damaged" in caplog.text
    with pytest.raises(UserError, match=r"has no checkpoint of step 3: it has \[1, 2\]"):
        find(f"{spoilt}@3")
    for step in (1, 2):
        flip(step_folder(spoilt, step) / "rank-00000.safetensors")
    with pytest.raises(UserError, match=f"{spoilt} has no complete checkpoint"):
        find(str(spoilt))


@pytest.mark.parametrize("stopped", [4, 6])
def test_training_goes_on_from_the_one_before(
    pool: Pool, squares: Path, resumed: Runs, tmp_path: Path, stopped: int
) -> None:
    """Newest checkpoint damaged: its steps are trained again, also where it was the run's last."""
    name = "fp32, zero 0, alone"
    parts = {"parallel": TOPOLOGIES[name][1], "checkpoint": {"every": 2}}
    arguments: dict[str, Any] = {"world": str(squares), "run": str(tmp_path), "parts": parts}
    assert pool.run(CASES + "trained", 1, **arguments, until=stopped)[0]["did"] == stopped
    flip(step_folder(tmp_path, stopped) / "rank-00000.safetensors")
    assert pool.run(CASES + "trained", 1, **arguments)[0]["did"] == 6 - (stopped - 2)
    assert_equal(step_folder(tmp_path, 6), step_folder(resumed(name) / "straight", 6))


def test_only_what_is_kept_stays(pool: Pool, tmp_path: Path) -> None:
    pool.run(CASES + "written", 1, run=str(tmp_path), zero=0, keep_last=2)
    assert steps_of(tmp_path) == [2, 3]
    kept = {step_folder(tmp_path, step).name for step in (2, 3)}
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"head", *kept}
    expected = {"files.json", "ledger.bin", "rank-00000.safetensors", "state.json"}
    assert files_of(step_folder(tmp_path, 2)).keys() == expected


def test_frozen_parameters_are_written_once_and_taken_from_there(pool: Pool, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    pool.run(CASES + "written", 2, run=str(run), zero=3, train=FROZEN)
    frozen = frozen_of(run)
    before = files_of(frozen)
    first = (step_folder(run, 1) / "files.json").stat().st_mtime_ns
    assert len(before) == 3 and all(mtime <= first for _, mtime in before.values())
    names = {name for kind, name in held(step_folder(run, 3)) if kind == "exp_avg"}
    assert names and not [name for name in names if name.startswith("encoder.")]
    for path in step_folder(run, 3).glob("rank-*.safetensors"):
        assert {stored.name for stored in entries_of(str(path))} <= names

    for target in (run, other):  # an engine of other initial weights, of another topology
        arguments: dict[str, Any] = {"source": str(step_folder(run, 2)), "run": str(target), "zero": 0, "train": FROZEN}
        arguments["frozen"] = str(frozen)
        pool.run(CASES + "carried", 1, **arguments)
    assert files_of(frozen) == before
    assert {"encoder.embed.weight", "decoder.embedding.weight"} <= {
        name for _, name in assert_equal(step_folder(other, 9), step_folder(run, 2))
    }


def test_damaged_frozen_parameters_are_refused(pool: Pool, tmp_path: Path) -> None:
    pool.run(CASES + "written", 1, run=str(tmp_path), zero=0, train=FROZEN)
    flip(frozen_of(tmp_path) / "rank-00000.safetensors")
    with pytest.raises(UserError, match="frozen"):
        find(f"{tmp_path}@3")


@pytest.mark.parametrize("name", ["fp32, zero 0, alone", "bf16, zero 3 x dp 2"])
def test_start_from_takes_weights_alone(pool: Pool, squares: Path, resumed: Runs, tmp_path: Path, name: str) -> None:
    source = f"{resumed(name)}/resumed@3"
    options = {key: TOPOLOGIES[name][1][key] for key in ("zero", "precision")}
    [found] = pool.run(CASES + "started", 1, world=str(squares), run=str(tmp_path), source=source, **options)
    assert found == {"step": 0, "updates": 0, "moments": 0.0, "differing": []}


@pytest.mark.parametrize(
    ("decoder", "said"),
    [
        ({"width": 64}, r"has projector\.layers\.1\.weight of shape \(32, 48\), this model needs \(64, 48\)"),
        ({"mlp_width": 128}, r"has decoder\.layers\.0\.gate\.weight of shape \(64, 32\), this model needs \(128, 32\)"),
        ({"layers": 3}, r"has decoder\.layers\.2\.norm1\.weight of shape None, this model needs \(32,\)"),
        ({"layers": 1}, r"has decoder\.layers\.1\..* that this model lacks"),
    ],
    ids=str,
)
def test_another_model_is_refused(pool: Pool, sources: Sources, decoder: dict[str, int], said: str) -> None:
    source = step_folder(sources["zero 3 x tp 2"][0], 3)
    [sentence] = pool.run(CASES + "refused", 1, source=str(source), decoder=decoder)
    assert sentence is not None and re.search(said, sentence)
    assert str(source) in sentence and "\n" not in sentence


def test_a_signal_to_one_rank_saves_all_and_nothing_is_lost(
    pool: Pool, squares: Path, resumed: Runs, tmp_path: Path
) -> None:
    name = "bf16, zero 3 x dp 2"
    arguments: dict[str, Any] = {
        "world": str(squares),
        "run": str(tmp_path),
        "parts": {"parallel": TOPOLOGIES[name][1]},
    }
    for result in pool.run(CASES + "trained", 2, **arguments, signal_at=2):
        assert (result["did"], result["code"]) == (2, REQUEUE)
    assert latest(tmp_path) == last_of(tmp_path, 2)
    assert pool.run(CASES + "trained", 2, **arguments)[1]["did"] == 4
    assert_equal(step_folder(tmp_path, 6), step_folder(resumed(name) / "straight", 6))


def test_nothing_is_pickled(sources: Sources, resumed: Runs) -> None:
    runs = [sources["zero 3 x dp 3"][0], resumed("bf16, zero 3 x tp 2") / "resumed"]
    files = [path for run in runs for path in (run / "checkpoints").rglob("*") if path.is_file()]
    assert {path.suffix or path.name for path in files} == {".safetensors", ".json", ".bin"}
    for path in (path for path in files if path.suffix != ".bin"):
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little") if path.suffix == ".safetensors" else None
        assert isinstance(json.loads(data if size is None else data[8 : 8 + size]), dict)
