"""The world of squares, made once."""

from pathlib import Path

import pytest

from tests.pretrain.squares import make_world


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("squares"))
