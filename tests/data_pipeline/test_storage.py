"""A write is whole at its name or not there."""

import errno
import os
from pathlib import Path

import pytest

from configs.errors import RunError
from data_pipeline.storage import exists, join, listdir, put, put_file, read_bytes, read_range


def test_no_space_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.tar"
    put(str(target), b"old")

    def full(path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match=r"no space is left for .*a\.tar"):
        put_file(str(target), full)
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.tar"]


def test_other_errors_pass_and_leave_nothing(tmp_path: Path) -> None:
    def broken(path: str) -> None:
        raise PermissionError(errno.EACCES, "no")

    with pytest.raises(PermissionError):
        put_file(str(tmp_path / "a"), broken)
    assert os.listdir(tmp_path) == []


def test_the_mode_is_the_users_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        put(str(tmp_path / "a"), b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("scheme", ["", "memory://looksay-storage"])
def test_local_and_remote_behave_alike(scheme: str, tmp_path: Path) -> None:
    folder = join(scheme or str(tmp_path), "set")
    path = join(folder, "a.bin")
    assert listdir(folder) == [] and not exists(path)
    put(path, bytes(range(100)))
    assert exists(path) and listdir(folder) == ["a.bin"]
    assert read_bytes(path) == bytes(range(100))
    assert read_range(path, 10, 5) == bytes(range(10, 15))
    assert read_range(path, 98, 10) == bytes([98, 99])
