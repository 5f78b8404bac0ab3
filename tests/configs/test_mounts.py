"""What a network's file system holds is read, not mapped, and is the same."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from configs.mounts import NO_MAPPING, is_network


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NO_MAPPING, "1")


def mapped(path: Path) -> bool:
    """This process has the file in its memory map."""
    return os.path.realpath(path) in Path("/proc/self/maps").read_text()


def test_local_disks_are_mapped_and_networks_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_network(tmp_path)
    monkeypatch.setattr("configs.mounts.file_system", lambda path: "nfs4")
    assert is_network(tmp_path)
    monkeypatch.setattr("configs.mounts.file_system", lambda path: "fuse.sshfs")
    assert is_network(tmp_path)


def test_tensors_are_the_same_read_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pretrain.model.hf.tensor_file import open_tensors

    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.randn(7).to(torch.bfloat16),
        "none": torch.empty(0, 4),
        "one": torch.tensor(3),
    }
    path = tmp_path / "x.safetensors"
    save_file(tensors, str(path), {"note": "x"})
    for setting in ("0", "1"):
        monkeypatch.setenv(NO_MAPPING, setting)
        with open_tensors(path) as file:
            assert sorted(file.keys()) == sorted(tensors)
            for name, tensor in tensors.items():
                found = file.get_tensor(name)
                assert torch.equal(found, tensor) and found.dtype == tensor.dtype
                assert list(file.get_slice(name).get_shape()) == list(tensor.shape)
            assert file.get_slice("b").get_dtype() == "BF16"
            if setting == "1":
                assert not mapped(path)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("damage", ["short", "header", "empty"])
def test_damaged_tensors_are_refused(tmp_path: Path, damage: str) -> None:
    from pretrain.model.hf.tensor_file import open_tensors

    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(64)}, str(path))
    data = path.read_bytes()
    path.write_bytes({"short": data[:-4], "header": data[:20], "empty": b""}[damage])
    with pytest.raises(SafetensorError), open_tensors(path) as file:
        file.get_tensor("a")


@pytest.mark.usefixtures("network")
def test_arrow_files_and_foreign_tars_are_read(tmp_path: Path) -> None:
    import pyarrow as pa

    from data_pipeline.ingest.adopt import index_tar
    from data_pipeline.ingest.sources.stored import ArrowStored
    from tests.support.datasets import samples, write_dataset

    table = pa.table({"text": ["a", "b"], "number": [1, 2]})
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    stored = ArrowStored(str(tmp_path / "x.arrow"))
    assert pa.Table.from_batches(stored.every()) == table and not mapped(tmp_path / "x.arrow")
    write_dataset(tmp_path / "data", samples(5, 1))
    tar = tmp_path / "alone.tar"
    tar.write_bytes((tmp_path / "data" / "00000.tar").read_bytes())
    assert index_tar(tar).entry.samples == 5


@pytest.mark.usefixtures("network")
def test_datasets_are_read_from_a_network(tmp_path: Path) -> None:
    from data_pipeline.stream.read.dataset import Dataset
    from tests.support.datasets import samples, write_dataset

    write_dataset(tmp_path / "data", samples(5, 1))
    dataset = Dataset(str(tmp_path / "data"))
    assert all(dataset.read(number).images for number in range(5))
    assert not mapped(tmp_path / "data" / "00000.tar")
    assert np.array_equal(dataset.read(0).images[0], dataset.read(0).images[0])
