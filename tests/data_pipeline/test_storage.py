"""A write is whole at its name or not there; a pattern names what it says. S3 itself is in test_s3.py."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from configs.errors import RunError, UserError
from data_pipeline import storage
from data_pipeline.storage import exists, join, listdir, put, put_file, read_bytes, read_range
from data_pipeline.stores import globbing, local

ROOT = Path(__file__).resolve().parents[2]


def test_no_space_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.tar"
    put(str(target), b"old")

    def full(path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match=r"no space is left for .*a\.tar"):
        put_file(str(target), full)
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.tar"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    path = str(small_disk / "a.bin")
    put(path, b"old")
    for if_absent in (False, True):
        with pytest.raises(RunError, match=rf"no space is left for {path}.*nothing was changed"):
            put(path if not if_absent else f"{path}2", b"x" * 2**21, if_absent=if_absent)
    assert os.listdir(small_disk) == ["a.bin"] and read_bytes(path) == b"old"
    put(path, b"there is room for this")


def test_a_full_temporary_folder_is_named(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    with pytest.raises(RunError, match=rf"no space is left for memory://x/a \(made in {small_disk} first\)"):
        put_file("memory://x/a", lambda file: Path(file).write_bytes(b"x" * 2**21))
    assert os.listdir(small_disk) == [] and not exists("memory://x/a")


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


def test_file_and_folder_are_on_the_disk_when_put_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    really = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), really(handle))[1])
    put(str(tmp_path / "a"), b"x")
    assert synced == [(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino]


def test_absent_is_asked_and_set_in_one_step(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with ThreadPoolExecutor(20) as pool:
        won = list(pool.map(lambda number: put(path, str(number).encode(), if_absent=True), range(20)))
    assert sum(won) == 1 and read_bytes(path) == str(won.index(True)).encode()
    assert os.listdir(tmp_path) == ["lock"]
    assert put(path, b"new") and read_bytes(path) == b"new"


def test_absent_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path = str(tmp_path / "a")
    assert put(path, b"1", if_absent=True) and not put(path, b"2", if_absent=True)
    assert read_bytes(path) == b"1" and os.listdir(tmp_path) == ["a"]


def test_a_link_whose_answer_was_lost_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS asks again, and the server says that its own first answer is there."""
    really = os.link

    def lost(source: str, target: str) -> None:
        really(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", lost)
    assert put(str(tmp_path / "a"), b"1", if_absent=True)


PUTS = """
import sys
from pathlib import Path
from data_pipeline.storage import put_file
def slowly(file):
    with open(file, "wb", buffering=0) as stream:
        for _ in range(64):
            stream.write(letter * 65536)
            print(".", flush=True)
while True:
    for letter in (b"a", b"b"):
        put_file(sys.argv[1], slowly)
"""


@pytest.mark.parametrize("steps", [1, 40, 64, 65, 100, 128, 129])
def test_killed_while_it_writes(steps: int, tmp_path: Path) -> None:
    """64 steps are one put: before, nothing is there; then the last whole one."""
    path = tmp_path / "killed.bin"
    child = subprocess.Popen([sys.executable, "-c", PUTS, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout
    for _ in range(steps):
        assert child.stdout.readline() == b".\n"
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=30)
    if path.exists():
        assert path.read_bytes() in (b"a" * 64 * 65536, b"b" * 64 * 65536)
    else:
        assert steps <= 65  # the child goes on a little while we look


@pytest.mark.parametrize("scheme", ["", "file://", "memory://looksay-storage"])
def test_local_and_remote_behave_alike(scheme: str, tmp_path: Path) -> None:
    base = scheme if scheme.startswith("memory") else f"{scheme}{tmp_path}"
    folder = join(base, "set")
    path = join(folder, "a.bin")
    assert listdir(folder) == [] and not exists(path)
    assert put(path, bytes(range(100)))
    assert not put(path, b"other", if_absent=True)
    assert exists(path) and exists(folder) and listdir(folder) == ["a.bin"] and storage.size_of(path) == 100
    assert read_bytes(path) == bytes(range(100))
    assert read_range(path, 10, 5) == bytes(range(10, 15))
    assert read_range(path, 98, 10) == bytes([98, 99])
    assert read_range(path, 10, 0) == b""
    assert storage.read_tail(path, 2) == bytes([98, 99]) and len(storage.read_tail(path, 500)) == 100
    with storage.open_stream(path) as stream:
        assert stream.read(3) == bytes(range(3)) and stream.read() == bytes(range(3, 100))
    assert [(stat.size, os.path.basename(stat.path)) for stat in storage.glob(join(folder, "*.bin"))] == [
        (100, "a.bin")
    ]
    for absent in (storage.read_bytes, storage.size_of, storage.open_stream, lambda path: storage.read_tail(path, 1)):
        with pytest.raises(FileNotFoundError):
            absent(join(folder, "none"))
    storage.remove(path)
    storage.remove(path)
    assert not exists(path)
    put(join(join(folder, "in"), "b"), b"x")
    storage.remove_tree(folder)
    storage.remove_tree(folder)
    assert not exists(folder)


def test_other_bytes_other_stamp(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    put(path, b"one")
    before = storage.stat_of(path)
    time.sleep(0.01)
    put(path, b"two")
    assert before.stamp != storage.stat_of(path).stamp and before.size == storage.stat_of(path).size


def test_a_scheme_that_nobody_knows() -> None:
    with pytest.raises(UserError, match=r"nonsense://x/a: .*scheme"):
        read_bytes("nonsense://x/a")


@pytest.fixture(params=["local", "memory"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Files for patterns."""
    folder = str(tmp_path) if request.param == "local" else f"memory://glob-{tmp_path.name}"
    names = ["a-000.tar", "a-001.tar", "a-010.tar", "b.csv", "b.csv.gz", "odd[1].csv", "x{1}.csv", ".hidden.csv"]
    names += ["in/c.csv", "in/deep/d.csv", "in/deep/a-000.tar", ".git/e.csv", "in/.looksay-half.csv", "other/c.csv"]
    for name in names:
        put(join(folder, name), b"x")
    return folder


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.csv", ["b.csv", "odd[1].csv", "x{1}.csv"]),
        ("?.csv", ["b.csv"]),
        ("a-0[01]?.tar", ["a-000.tar", "a-001.tar", "a-010.tar"]),
        ("a-0[!0]0.tar", ["a-010.tar"]),
        ("*/c.csv", ["in/c.csv", "other/c.csv"]),
        ("i*/*/d.csv", ["in/deep/d.csv"]),
        ("in/**", ["in/c.csv", "in/deep/a-000.tar", "in/deep/d.csv"]),
        ("**/*.tar", ["a-000.tar", "a-001.tar", "a-010.tar", "in/deep/a-000.tar"]),
        ("**/deep/**/*.csv", ["in/deep/d.csv"]),
        (".h*", [".hidden.csv"]),
        ("a-{000..001}.tar", ["a-000.tar", "a-001.tar"]),
        ("{b,in/c}.csv", ["b.csv", "in/c.csv"]),
        ("{in,other,nowhere}/*.csv", ["in/c.csv", "other/c.csv"]),
        ("{b*,b}.csv", ["b.csv"]),
        ("odd[1].csv", ["odd[1].csv"]),
        ("x{1}.csv", ["x{1}.csv"]),
        ("b.csv", ["b.csv"]),
        ("nothing-*", []),
        ("nowhere/*.csv", []),
        ("b.csv/*", []),
        ("nowhere/**/*.csv", []),
        ("none.csv", []),
        ("none{1}.csv", []),
        ("in", []),
    ],
)
def test_patterns(pattern: str, names: list[str], tree: str) -> None:
    assert [stat.path for stat in storage.glob(join(tree, pattern))] == [join(tree, name) for name in names]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("a-{000..003}.tar", r"a-002\.tar does not exist, although .*a-\{000\.\.003\}\.tar names it"),
        ("a-{000..099}.tar", r"a-002\.tar does not exist"),
        ("{b,none}.csv", r"none\.csv does not exist"),
        ("a-{000..999}.tar", "more than 200 files"),
        ("a-{000..1.tar", "braces do not match"),
    ],
)
def test_patterns_that_cannot_be(pattern: str, said: str, tree: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(globbing, "MOST_NAMES", 200)
    with pytest.raises(UserError, match=said):
        storage.glob(join(tree, pattern))


def test_patterns_of_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.csv", "in/c.csv", *(f"x{number}" for number in range(20))):
        put(name, b"x")
    assert [stat.path for stat in storage.glob("*.csv")] == ["b.csv"]
    assert [stat.path for stat in storage.glob("**/*.csv")] == ["b.csv", "in/c.csv"]
    assert [stat.path for stat in storage.glob("./i?/*.csv")] == ["./in/c.csv"]
    assert len(storage.glob("x{0..19}")) == 20 and len(storage.glob(".//x{0..19}")) == 20


def test_links_to_folders_are_followed_but_not_around(tmp_path: Path) -> None:
    put(str(tmp_path / "set/real/a.csv"), b"x")
    os.symlink(tmp_path / "set/real", tmp_path / "set/link")
    os.symlink(tmp_path / "set", tmp_path / "set/real/around")
    os.symlink(tmp_path / "gone", tmp_path / "set/broken.csv")
    names = [os.path.relpath(stat.path, tmp_path / "set") for stat in storage.glob(f"{tmp_path}/set/**/*.csv")]
    assert names == ["link/a.csv", "real/a.csv"]


def test_a_file_that_goes_while_its_folder_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        put(str(tmp_path / name), b"x")
    listing = local.LocalStore().list(str(tmp_path))
    first, _ = next(listing)
    (tmp_path / ({"a", "b"} - {first}).pop()).unlink()
    assert list(listing) == []
