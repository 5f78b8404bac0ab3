"""The node's cache: below its limit, whole files only, nothing that outlives a process and matters."""

import os
import time
from pathlib import Path

import pytest

from configs.errors import UserError
from data_pipeline.stream.read import cache as cache_module
from data_pipeline.stream.read.cache import TEMPORARY, DiskCache


def test_the_cache_keeps_its_limit_and_what_was_read_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "SWEEP_EVERY", 1)
    store = DiskCache(str(tmp_path), "set", 50_000 / 1e9)
    for number in range(100):
        store.put("a.tar", number * 1000, bytes(1000))
        assert store.get("a.tar", 0, 1000) is not None, "what is read again and again was removed"
        time.sleep(0.002)
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 51_000
    assert store.get("a.tar", 99_000, 1000) is not None and store.get("a.tar", 2000, 1000) is None
    assert store.get("a.tar", 99_000, 999) is None, "another size is another sample"


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    store = DiskCache(str(tmp_path), "set", 1.0)
    store.put("a.tar", 0, b"x")
    old, new = (next(store.folder.iterdir()) / f"{TEMPORARY}{name}" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3600, time.time() - 3600))
    store.sweep()
    assert not old.exists() and new.exists() and store.get("a.tar", 0, 1) == b"x"


def test_more_than_fits_is_not_kept(tmp_path: Path) -> None:
    store = DiskCache(str(tmp_path), "set", 1000 / 1e9)
    store.put("a.tar", 0, bytes(2000))
    assert store.get("a.tar", 0, 2000) is None and not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_cache_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data.read.cache .* cannot be used"):
        DiskCache(str(tmp_path / "file"), "set", 1.0)
