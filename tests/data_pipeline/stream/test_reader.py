"""Random access to a dataset folder: what a process has read before does not change what it reads now."""

import shutil
from pathlib import Path

from data_pipeline.stream.reader import Dataset
from tests.support.datasets import samples, write_dataset


def test_a_dataset_that_replaced_another_is_the_one_that_is_read(tmp_path: Path) -> None:
    """The same holds for a relative path in another working folder: to the process it is the same path."""
    for seed in (1, 2):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        write_dataset(tmp_path / "data", samples(12, seed))
        dataset = Dataset(str(tmp_path / "data"))
        assert all(dataset.read(index).images for index in range(12))
