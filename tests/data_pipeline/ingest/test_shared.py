"""Datasets on shared machines: the user's umask decides, never a temporary file's own rights; inodes are counted."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.ingest.shared import shared
from pretrain.cli.main import main
from tests.flows.conftest import no_ray


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"noise {number}")
    return folder


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("photos", "umask")
def test_the_group_can_read_what_the_umask_allows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with no_ray():
        assert main(["data", "build", "photos", "data"]) == 0
    out = capsys.readouterr().out
    files = list((tmp_path / "data").rglob("*"))
    for path in (tmp_path / "data", *files):
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = 0o750 if path.is_dir() else 0o640
        assert mode & 0o777 == wanted, f"{path} has mode {mode:o}"
    assert f"{len(files) + 1} inodes" in out and "cannot read" not in out
    assert main(["data", "verify", "data", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["inodes"] == len(files) + 1


@pytest.mark.usefixtures("photos")
def test_what_the_group_cannot_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with no_ray():
        assert main(["data", "build", "photos", "data"]) == 0
    (tmp_path / "data" / "00000.tar").chmod(0o600)
    capsys.readouterr()
    assert main(["data", "verify", "data"]) == 0
    assert "your group cannot read data/00000.tar" in capsys.readouterr().out
    assert shared("s3://bucket/data") is None
