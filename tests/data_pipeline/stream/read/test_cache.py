"""The node's cache: below its limit, whole files only, nothing that outlives a process and matters."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.errors import UserError
from data_pipeline.stream.read import cache as cache_module
from data_pipeline.stream.read.cache import TEMPORARY, DiskCache


def test_the_cache_keeps_its_limit_and_what_was_read_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "LOOK_EVERY", 0.0)
    store = DiskCache(str(tmp_path), "set", 200_000 / 1e9)
    for number in range(100):
        store.put("a.tar", number * 1000, bytes(1000))
        assert store.get("a.tar", 0, 1000) is not None, "what is read again and again was removed"
        time.sleep(0.002)
        assert sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*") if path.is_file()) <= 200_000
    assert store.get("a.tar", 99_000, 1000) is not None and store.get("a.tar", 2000, 1000) is None
    assert store.get("a.tar", 99_000, 999) is None, "another size is another sample"


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    store = DiskCache(str(tmp_path), "set", 1.0)
    store.put("a.tar", 0, b"x")
    old, new = (next(store.folder.iterdir()) / f"{TEMPORARY}{name}" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3600, time.time() - 3600))
    assert sum(store.sweep(part) for part in range(store.parts)) == 4096
    assert not old.exists() and new.exists() and store.get("a.tar", 0, 1) == b"x"


def test_more_than_fits_is_not_kept(tmp_path: Path) -> None:
    store = DiskCache(str(tmp_path), "set", 1000 / 1e9)
    store.put("a.tar", 0, bytes(2000))
    assert store.get("a.tar", 0, 2000) is None and not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_cache_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data.read.cache .* cannot be used"):
        DiskCache(str(tmp_path / "file"), "set", 1.0)


def test_each_part_keeps_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "PART_BYTES", 400_000)
    store = DiskCache(str(tmp_path), "set", 2_000_000 / 1e9)
    assert store.parts == 5
    for number in range(1500):
        store.put("a.tar", number, bytes(4096))
    held = sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*") if path.is_file())
    assert 0.7 * 2_000_000 < held < 1.02 * 2_000_000


def test_a_disk_that_fails_costs_nothing_but_time(tmp_path: Path) -> None:
    store = DiskCache(str(tmp_path), "set", 1.0)
    part, path = store._place("a.tar", 0)
    path.mkdir(parents=True)  # reading it, writing over it and removing it are errors
    store.put("a.tar", 0, b"x")
    store.drop("a.tar", 0)
    assert store.get("a.tar", 0, 1) is None and store.get_whole("a.tar") is None
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [], "a temporary file was left"
    path.rmdir()
    store.put("a.tar", 0, b"x")
    assert store.get("a.tar", 0, 1) == b"x" and store.sweep(part) == 4096


def test_datasets_do_not_see_each_others_bytes(tmp_path: Path) -> None:
    one, other = (DiskCache(str(tmp_path), name, 1.0) for name in ("one", "other"))
    one.put("a.tar", 0, b"x")
    assert other.get("a.tar", 0, 1) is None and one.get("a.tar", 0, 1) == b"x"


def test_folders_of_another_limit_go_when_nobody_uses_them(tmp_path: Path) -> None:
    old = DiskCache(str(tmp_path), "set", 5.0)
    old.put("a.tar", 0, b"x")
    new = DiskCache(str(tmp_path), "set", 1.0)
    assert old.folder.exists() and new.folder != old.folder
    for path in (old.folder, *old.folder.iterdir()):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    DiskCache(str(tmp_path), "set", 1.0)
    assert not old.folder.exists() and new.folder.exists()


def test_processes_share_it(tmp_path: Path) -> None:
    """Four at once, most of them killed while they write: what is there is whole."""
    code = "import sys; from data_pipeline.stream.read.cache import DiskCache\n"
    code += "s = DiskCache(sys.argv[1], 'set', 0.004)\nprint('go', flush=True)\n"
    code += "for n in range(10**9): s.put('a', n % 3000, (n % 3000).to_bytes(4, 'little') * 2000)"
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(4)]
    for process in running:
        assert process.stdout is not None and process.stdout.readline() == b"go\n"
    time.sleep(1.0)
    for process in running:
        process.kill()
        process.wait()
    store = DiskCache(str(tmp_path), "set", 0.004)
    found = {n: store.get("a", n, 8000) for n in range(3000)}
    held = [n for n, data in found.items() if data is not None]
    assert held and all(found[n] == n.to_bytes(4, "little") * 2000 for n in held)
    assert store.sweep(0) <= 4_000_000
