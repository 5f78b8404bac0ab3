"""Tiny published folders with every tensor random, and the world of squares."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pretrain.mesh import Mesh, alone
from tests.pretrain.conftest import squares  # noqa: F401


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with alone() as made:
        yield made


@pytest.fixture(scope="session")
def transformers() -> Any:
    """The library, offline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        return pytest.importorskip("transformers", reason="parity needs transformers: make install-dev")


@pytest.fixture(scope="session")
def llava_folder(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.families.published import save_llava

    return save_llava(transformers, tmp_path_factory.mktemp("llava") / "hf")


@pytest.fixture(scope="session")
def llava_run(llava_folder: Path) -> Iterator[Path]:
    from pretrain.importing import import_published

    run = llava_folder.parent / "run"
    import_published(llava_folder, run, "llava", progress=False)
    yield run
