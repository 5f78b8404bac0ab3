"""A user's module on Python's path, and samples."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.sample import ImageInfo, Message, Sample, key_of


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """Write a module where this process and new ones find it; it is forgotten afterwards."""
    folder, made = tmp_path / "user_code", []
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))

    def write(name: str, code: str) -> Path:
        made.append(name)
        (folder / f"{name}.py").write_text(code)
        importlib.invalidate_caches()
        return folder

    yield write
    for name in made:
        sys.modules.pop(name, None)


def sample(
    number: int = 0, text: str | None = "a cat", pictures: int = 1, turns: tuple[Message, ...] | None = None
) -> Sample:
    infos = (ImageInfo(4, 3),) * pictures
    return Sample(key_of(number), (b"x",) * pictures, ("png",) * pictures, infos, None if turns else text, turns)


def pixels(number: int, pictures: int = 1) -> list[np.ndarray]:
    """Pictures [3, 4, 3] of one grey each, which tells them apart."""
    return [np.full((3, 4, 3), number + n, np.uint8) for n in range(pictures)]
