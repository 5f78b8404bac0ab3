"""Verify finds every kind of damage and names the file; a whole dataset has no problem."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UserError
from data_pipeline.ingest.job import build
from data_pipeline.ingest.verify import MOST_PROBLEMS, verify
from data_pipeline.manifest import read_manifest, write_manifest
from data_pipeline.shard_table import ShardTable
from tests.data_pipeline.conftest import build_recipe, fill
from tests.flows.conftest import no_ray


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    fill(folder / "photos", 16)
    (folder / "photos" / "p002.txt").write_text("")
    compose = {"pictures": [1, 2], "canvases": [[32, 32]]}
    with no_ray():
        build(build_recipe(folder / "photos", folder / "out", shard_size=4, compose=compose), progress=False)
    return folder / "out"


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_whole_dataset_has_no_problem(dataset: Path) -> None:
    report = verify(str(dataset))
    assert (report.shards, report.problems) == (3, [])
    assert report.samples == json.loads((dataset / "manifest.json").read_text())["totals"]["kept"]


@pytest.mark.parametrize("ending", [".tar", ".index.parquet", ".outcomes.parquet"])
def test_every_flipped_byte_is_found(ending: str, dataset: Path) -> None:
    """Forty places all over the file, padding included."""
    path = dataset / f"00001{ending}"
    for place in np.linspace(0, path.stat().st_size - 1, 40).astype(int):
        flip(path, place)
        assert any(str(path) in problem or "00001" in problem for problem in verify(str(dataset)).problems), place
        flip(path, place)
    assert verify(str(dataset)).problems == []


def test_a_flipped_pixel_names_the_sample(dataset: Path) -> None:
    from data_pipeline.shard import read_table

    row = read_table((dataset / "00000.index.parquet").read_bytes()).to_pylist()[2]
    flip(dataset / "00000.tar", row["image_offset"][0] + 5)
    problems = verify(str(dataset)).problems
    assert any(row["key"] in problem and "does not have its hash" in problem for problem in problems)
    assert not any(f"/{other}." in problem for problem in problems for other in ("00001", "00002"))


def remove_tar(folder: Path) -> None:
    (folder / "00001.tar").unlink()


def cut_tar(folder: Path) -> None:
    data = (folder / "00001.tar").read_bytes()
    (folder / "00001.tar").write_bytes(data[: len(data) // 2])


def swap(folder: Path) -> None:
    manifest = read_manifest(str(folder))
    first, second, *rest = manifest.shards
    write_manifest(str(folder), replace(manifest, shards=ShardTable([second, first, *rest])))


def spoil_table(folder: Path) -> None:
    flip(next(folder.glob("shards-*.parquet")), 40)


def remove_table(folder: Path) -> None:
    next(folder.glob("shards-*.parquet")).unlink()


def stranger(folder: Path) -> None:
    (folder / "00003.tar").write_bytes(b"")


def totals(folder: Path) -> None:
    data = json.loads((folder / "manifest.json").read_text())
    data["totals"]["kept"] += 1
    (folder / "manifest.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove_tar, "00001.tar is missing"),
        (cut_tar, "00001.tar does not have the SHA-256"),
        (swap, "comes after"),
        (spoil_table, "parquet does not have the SHA-256"),
        (remove_table, "parquet is missing"),
        (stranger, "00003.tar is not in the manifest"),
        (totals, "manifest.json"),
    ],
)
def test_damage_is_named(damage: Callable[[Path], None], said: str, dataset: Path) -> None:
    damage(dataset)
    problems = verify(str(dataset)).problems
    assert any(said in problem for problem in problems), problems
    assert len(problems) <= MOST_PROBLEMS + 1


def test_no_dataset_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no dataset"):
        verify(str(tmp_path))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        verify(str(tmp_path))
    (tmp_path / "manifest.json").write_text('{"schema": 99}')
    with pytest.raises(UserError, match="schema 99"):
        verify(str(tmp_path))
