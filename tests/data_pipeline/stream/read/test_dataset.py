"""Random access to a dataset folder: what a process has read before does not change what it reads now."""

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from configs.data import ReadConfig
from configs.errors import RunError, UserError
from configs.mounts import file_system
from data_pipeline.stream.read import index, local
from data_pipeline.stream.read.dataset import Dataset, StoredSample
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
    monkeypatch.setattr(index, "KEPT_BLOCKS", 2)
    dataset, whole = Dataset(str(folder)), Dataset(str(folder))
    order = np.random.default_rng(0).permutation(60).tolist()
    assert [dataset.key(k) for k in order] == [f"{k:012d}" for k in order]
    assert all(dataset.sizes(k) == whole.sizes(k) for k in order)
    assert len(dataset._indexes._groups) == 1 == len(dataset._indexes._files) and len(dataset._indexes._blocks) == 2


def test_a_missing_tar_ends_the_job(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "data"))
    (copy / "00002.tar").unlink()
    with pytest.raises(RunError, match=r"00002\.tar is gone"):
        Dataset(str(copy)).read(45)


def unreadable(data: bytes) -> bytes:
    """Its footer is nonsense: to arrow that is an error of the system."""
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[:footer] + b"\xff" * 40 + data[footer + 40 :]


def misspelled(data: bytes) -> bytes:
    """Another name for a column."""
    return data.replace(b"json_size", b"json\xffsize")


def test_an_index_that_is_damaged_is_said(folder: Path, tmp_path: Path) -> None:
    for number, spoil in enumerate(
        (
            lambda data: data[:-9],
            lambda data: b"",
            unreadable,
            misspelled,
        )
    ):
        copy = Path(shutil.copytree(folder, tmp_path / f"{number}"))
        path = copy / "00001.index.parquet"
        path.write_bytes(spoil(path.read_bytes()))
        with pytest.raises(UserError, match=r"00001\.index\.parquet .* run `looksay data verify"):
            Dataset(str(copy), ReadConfig(retry_seconds=1.0)).read(25)


def test_an_index_of_another_shard_is_said(folder: Path, tmp_path: Path) -> None:
    copy = write_dataset(tmp_path / "data", samples(30, 5))
    shutil.copy(copy / "00001.index.parquet", copy / "00000.index.parquet")
    with pytest.raises(UserError, match=r"^\S*00000\.index\.parquet has 10 samples, the manifest says 20: run"):
        Dataset(str(copy)).key(3)


def test_the_whole_index_of_a_shard(folder: Path) -> None:
    dataset = Dataset(str(folder))
    table = dataset.index_of_shard(1)
    assert table.column("key").to_pylist() == [dataset.key(20 + n) for n in range(20)]


@pytest.mark.parametrize("index", [-1, 60])
def test_a_number_that_is_none_is_refused(index: int, folder: Path) -> None:
    dataset = Dataset(str(folder))
    for ask in (dataset.key, dataset.sizes, dataset.read, lambda k: dataset.read_many([0, k])):
        with pytest.raises(IndexError, match="60 samples"):
            ask(index)


def test_threads_may_share_a_dataset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "KEPT_BLOCKS", 1)
    monkeypatch.setattr(index, "OPEN_FILES", 1)
    monkeypatch.setattr(index, "KEPT_BYTES", 1)
    monkeypatch.setattr(local, "MAPPED", 1)
    dataset, wanted = Dataset(str(folder)), [bytes(what.body) for what in map(Dataset(str(folder)).read, range(60))]

    def reads(seed: int) -> bool:
        order = np.random.default_rng(seed).permutation(60).tolist()
        return [bytes(what.body) for what in dataset.read_many(order)] == [wanted[k] for k in order]  # type: ignore[union-attr]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(reads, range(200)))


def test_a_short_answer_is_not_the_end_of_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network file systems may give fewer bytes than asked."""
    plain, whole, pread = Dataset(str(folder)), Dataset(str(folder)), os.pread
    plain._tars.risky = True  # type: ignore[union-attr]
    monkeypatch.setattr(local.os, "pread", lambda handle, size, at: pread(handle, min(size, 100), at))
    assert all(bytes(plain.read(k).body) == bytes(whole.read(k).body) for k in range(60))


def test_a_lost_disk_is_waited_for_and_then_ends_the_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset(str(folder), ReadConfig(retry_seconds=1.0))
    dataset._tars.risky = True  # type: ignore[union-attr]
    left, pread = [1], os.pread

    def failing(handle: int, size: int, at: int) -> bytes:
        if left[0] > 0:
            left[0] -= 1
            raise OSError(errno.EIO, "Input/output error")
        return pread(handle, size, at)

    monkeypatch.setattr(local.os, "pread", failing)
    assert dataset.read(3).images
    left[0] = 10**9
    with pytest.raises(RunError, match=r"00000\.tar could not be read for 1 s .*Input/output error"):
        dataset.read(4)
