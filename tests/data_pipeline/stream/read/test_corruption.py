"""Damage of any kind is named (shard, key, byte range), and costs the samples that it hit and no others.

Full form: LOOKSAY_CORRUPTIONS=200 (of each kind).
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import tar_scan
from data_pipeline.stream.read.dataset import BadSample, Dataset
from data_pipeline.stream.read.members import BLOCK, Place

TRIALS = int(os.environ.get("LOOKSAY_CORRUPTIONS", "8"))
SHARD = 1


def damage(kind: str, data: bytes, place: Place, random: np.random.Generator) -> bytes:
    """The tar with one member of a sample spoiled."""
    offset, size, _ = place.members[random.integers(len(place.members))]
    header, end = offset - BLOCK, offset + size + (-size) % BLOCK
    if kind == "member cut":
        return data[:header] + data[end:]
    if kind == "header cut":
        start = header + int(random.integers(0, BLOCK - 1))
        return data[:start] + data[start + int(random.integers(1, BLOCK)) :]
    if kind == "payload cut":
        start = offset + int(random.integers(0, size))
        return data[:start] + data[min(offset + size, start + int(random.integers(1, size + 1))) :]
    at = (header + random.integers(BLOCK)) if kind == "header flip" else offset + random.integers(size)
    spoiled = bytearray(data)
    spoiled[at] ^= 1 << random.integers(8)
    return bytes(spoiled)


@pytest.mark.parametrize("kind", ["member cut", "header cut", "payload cut", "header flip", "payload flip"])
def test_damage_is_named_and_stays_where_it_is(kind: str, folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "data"))
    tar = copy / "00001.tar"
    whole, reference = tar.read_bytes(), Dataset(str(folder))
    indices = range(int(reference.starts[SHARD]), int(reference.starts[SHARD + 1]))
    wanted = {index: reference.read(index) for index in indices}
    for trial in range(TRIALS):
        random = np.random.default_rng(trial)
        victim = int(random.choice(list(indices)))
        tar.write_bytes(damage(kind, whole, reference.place(victim), random))
        dataset = Dataset(str(copy))
        for index, found in zip(indices, dataset.read_many(indices), strict=True):
            if index == victim:
                assert isinstance(found, BadSample), f"{kind} {trial}: the damage was not seen"
                assert found.key == dataset.key(victim) and found.shard.endswith("00001.tar")
                assert found.start < found.end and found.reason
            else:
                assert not isinstance(found, BadSample), f"{kind} {trial}: sample {index} was lost to {victim}: {found}"
                assert [bytes(image) for image in found.images] == [bytes(image) for image in wanted[index].images]
                assert bytes(found.body) == bytes(wanted[index].body)


def test_the_same_damage_is_the_same_error_every_time(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "data"))
    tar = copy / "00000.tar"
    tar.write_bytes(tar.read_bytes()[: 3 * BLOCK])
    said = [
        [str(what) for what in Dataset(str(copy)).read_many(range(20)) if isinstance(what, BadSample)] for _ in range(2)
    ]
    assert said[0] == said[1] and len(said[0]) >= 19


def test_an_empty_tar_is_damage_too(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "data"))
    (copy / "00000.tar").write_bytes(b"")
    found = Dataset(str(copy)).read_many(range(60))
    assert [isinstance(what, BadSample) for what in found] == [True] * 20 + [False] * 40


@pytest.mark.parametrize("checksums", [True, False])
def test_checksums_can_be_left_out(checksums: bool, folder: Path, tmp_path: Path) -> None:
    from configs.data import ReadConfig

    copy = Path(shutil.copytree(folder, tmp_path / "data"))
    place = Dataset(str(copy)).place(5)
    spoiled = bytearray((copy / "00000.tar").read_bytes())
    spoiled[place.members[0][0] + 3] ^= 4
    (copy / "00000.tar").write_bytes(spoiled)
    found = Dataset(str(copy), ReadConfig(checksums=checksums)).read_many([5])[0]
    assert isinstance(found, BadSample) == checksums


def test_a_tar_is_searched_only_where_something_moved(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "data"))
    whole, place = (copy / "00001.tar").read_bytes(), Dataset(str(folder)).place(25)
    for kind, searches in (("payload flip", 0), ("header flip", 0), ("member cut", 1)):
        (copy / "00001.tar").write_bytes(damage(kind, whole, place, np.random.default_rng(1)))
        dataset = Dataset(str(copy))
        found = dataset.read_many(range(60))
        assert [n for n, what in enumerate(found) if isinstance(what, BadSample)] == [25]
        assert dataset._searched.cache_info().misses == searches, kind


@pytest.mark.parametrize("checked", ["mapped", "read"])
@pytest.mark.parametrize("kind", ["member cut", "header cut", "payload cut"])
def test_a_search_looks_through_windows(
    kind: str, checked: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers that lie across the end of a window are found, and found once."""
    copy = Path(shutil.copytree(folder, tmp_path / "data"))
    whole, place = (copy / "00001.tar").read_bytes(), Dataset(str(folder)).place(25)
    for window in (513, 777, 4096):
        monkeypatch.setattr(tar_scan, "WINDOW", window)
        (copy / "00001.tar").write_bytes(damage(kind, whole, place, np.random.default_rng(window)))
        dataset = Dataset(str(copy))
        dataset._tars.risky = checked == "read"  # type: ignore[union-attr]
        found = dataset.read_many(range(60))
        assert [n for n, what in enumerate(found) if isinstance(what, BadSample)] == [25]
        there = list(dataset._searched(str(copy / "00001.tar")).places.values())
        assert all(len(set(members)) == len(members) for members in there)


def test_a_text_that_moved_is_found_too(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "data"))
    whole, place = (copy / "00001.tar").read_bytes(), Dataset(str(folder)).place(25)
    (copy / "00001.tar").write_bytes(damage("member cut", whole, place, np.random.default_rng(0)))
    dataset, reference = Dataset(str(copy)), Dataset(str(folder))
    for number in range(20, 40):
        if number == 25:
            with pytest.raises(BadSample):
                dataset.conversation(number)
        else:
            assert dataset.conversation(number) == reference.conversation(number)
