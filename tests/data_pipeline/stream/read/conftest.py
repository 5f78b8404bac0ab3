"""One small dataset of three shards."""

from pathlib import Path

import pytest

from tests.support.datasets import samples, write_dataset


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("read") / "data", samples(60, 5))
