"""Random access to a dataset folder: what a process has read before does not change what it reads now."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from configs.errors import RunError
from data_pipeline.stream.read import index
from data_pipeline.stream.read.dataset import Dataset, StoredSample
from data_pipeline.stream.read.local import file_system
from tests.support.datasets import samples, write_dataset


def test_a_dataset_that_replaced_another_is_the_one_that_is_read(tmp_path: Path) -> None:
    """The same holds for a relative path in another working folder: to the process it is the same path."""
    for seed in (1, 2):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        write_dataset(tmp_path / "data", samples(12, seed))
        dataset = Dataset(str(tmp_path / "data"))
        assert all(dataset.read(number).images for number in range(12))


def test_samples_come_in_the_order_asked(folder: Path) -> None:
    dataset = Dataset(str(folder))
    asked = [57, 3, 3, 21, 0, 59, 20]
    found = dataset.read_many(asked)
    assert [what.place.key for what in found if isinstance(what, StoredSample)] == [dataset.key(k) for k in asked]
    assert [bytes(i) for i in found[1].images] == [bytes(i) for i in dataset.read(3).images]  # type: ignore[union-attr]


def test_mapped_and_plain_reading_give_the_same(folder: Path) -> None:
    mapped, plain = Dataset(str(folder)), Dataset(str(folder))
    plain._tars.risky = True  # type: ignore[union-attr]
    for number in range(60):
        one, other = mapped.read(number), plain.read(number)
        assert bytes(one.body) == bytes(other.body) and one.conversation == other.conversation
        assert [bytes(image) for image in one.images] == [bytes(image) for image in other.images]


def test_file_systems_are_known_by_their_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/a / ext4 rw 0 0\nserver:/x /data nfs4 rw 0 0\nfs /data/scratch\\040disk lustre rw 0 0\nb /dat tmpfs rw 0 0\n"
    )
    kinds = [file_system(path, str(mounts)) for path in ("/data/set", "/data/scratch disk/set", "/datx", "/home")]
    assert kinds == ["nfs4", "lustre", "ext4", "ext4"]
    assert file_system("/data", str(tmp_path / "nowhere")) == ""


def test_our_tars_open_in_the_webdataset_library(folder: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    dataset, found = Dataset(str(folder)), []
    for sample in webdataset.WebDataset(sorted(str(p) for p in folder.glob("*.tar")), shardshuffle=False):
        found.append((sample["__key__"], sample["json"]))
    assert found == [(dataset.key(k), bytes(dataset.read(k).body)) for k in range(60)]


def test_an_index_is_read_in_parts_and_forgotten_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "KEPT_BYTES", 1)
    monkeypatch.setattr(index, "OPEN_FILES", 1)
    dataset, whole = Dataset(str(folder)), Dataset(str(folder))
    order = np.random.default_rng(0).permutation(60).tolist()
    assert [dataset.key(k) for k in order] == [f"{k:012d}" for k in order]
    assert all(dataset.sizes(k) == whole.sizes(k) for k in order)
    assert len(dataset._indexes._rows) == 1 == len(dataset._indexes._files)


def test_a_missing_tar_ends_the_job(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "data"))
    (copy / "00002.tar").unlink()
    with pytest.raises(RunError, match=r"00002\.tar is gone"):
        Dataset(str(copy)).read(45)
