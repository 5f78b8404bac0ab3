"""Storage against a real S3 server: whole or not there, one winner, bounded patience. See also test_s3_refusals.py."""

import io
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RunError, UserError
from configs.ingest import StorageConfig
from data_pipeline import storage
from data_pipeline.stores import client, patience
from data_pipeline.stores.s3 import S3Store
from data_pipeline.stores.s3_errors import diagnose
from tests.support.fault_proxy import Fault, FaultProxy, spoiling
from tests.support.s3_server import S3Server

MIB = 2**20
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def through(s3: S3Server, *faults: Fault) -> Iterator[FaultProxy]:
    """S3 behind a proxy that spoils requests, as long as the context lasts."""
    with spoiling(s3.endpoint_url, *faults) as proxy:
        storage.configure(StorageConfig(endpoint_url=proxy.url))
        yield proxy
    storage.configure(StorageConfig())


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def test_all_that_local_storage_does(s3_folder: str) -> None:
    data = some_bytes(1000)
    path = storage.join(s3_folder, "a.bin")
    assert not storage.exists(path) and not storage.exists(s3_folder) and storage.listdir(s3_folder) == []
    assert storage.put(path, data)
    assert storage.exists(path) and storage.exists(s3_folder) and storage.size_of(path) == 1000
    assert storage.read_bytes(path) == data and storage.read_range(path, 10, 5) == data[10:15]
    assert storage.read_range(path, 990, 50) == data[990:] and storage.read_range(path, 2000, 5) == b""
    assert storage.read_tail(path, 7) == data[-7:] and storage.read_tail(path, 5000) == data
    assert storage.open_stream(path).read() == data
    storage.put(path, b"")
    assert storage.read_bytes(path) == storage.read_tail(path, 3) == storage.read_range(path, 0, 3) == b""
    assert storage.open_stream(path).read() == b"" and storage.size_of(path) == 0
    storage.remove(path)
    storage.remove(path)
    assert not storage.exists(path)
    for read in (storage.read_bytes, storage.open_stream, storage.size_of):
        with pytest.raises(FileNotFoundError):
            read(path)


def test_what_is_large_goes_in_parts_and_comes_back_the_same(s3_folder: str, tmp_path: Path) -> None:
    data = some_bytes(37 * MIB + 12345)
    path = storage.join(s3_folder, "large.bin")
    assert storage.put_file(path, lambda file: Path(file).write_bytes(data))
    assert storage.stat_of(path).stamp.endswith("-5")  # the server's word for five parts
    assert storage.read_bytes(path) == data
    assert storage.read_range(path, 5, 20 * MIB) == data[5 : 5 + 20 * MIB]
    assert storage.read_tail(path, 17 * MIB) == data[-17 * MIB :]
    assert not storage.put(path, b"other" * 4 * MIB, if_absent=True) and storage.read_tail(path, 9) == data[-9:]


def test_a_stream_is_read_in_order_with_two_blocks_in_memory(s3_folder: str) -> None:
    data = some_bytes(21 * MIB)
    path = storage.join(s3_folder, "stream.bin")
    storage.put(path, data)
    with storage.open_stream(path) as stream:
        assert b"".join(iter(lambda: stream.read(100_003), b"")) == data
        assert stream.seek(-10, io.SEEK_END) and stream.read() == data[-10:]
        stream.seek(MIB)
        assert stream.read(50) == data[MIB : MIB + 50]


def test_a_stream_over_an_object_that_becomes_another_ends(s3_folder: str) -> None:
    path = storage.join(s3_folder, "stream.bin")
    storage.put(path, some_bytes(3 * MIB))
    with storage.open_stream(path) as stream:
        stream.read(10)
        storage.put(path, some_bytes(3 * MIB, seed=1))
        with pytest.raises(RunError, match="changed while it was read"):
            stream.read()


def test_thousands_of_keys(s3: S3Server, s3_folder: str) -> None:
    store = storage._configured.store()
    names = [f"{number:05d}.tar" for number in range(2500)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.put(f"{s3_folder}/{name}", b"x", False), names))
    storage.put(f"{s3_folder}/below/b.txt", b"yy")
    assert storage.listdir(s3_folder) == [*names, "below"]
    assert len(storage.glob(f"{s3_folder}/*.tar")) == 2500
    assert [stat.path for stat in storage.glob(f"{s3_folder}/0000[12].tar")] == [
        f"{s3_folder}/00001.tar",
        f"{s3_folder}/00002.tar",
    ]
    assert len(storage.glob(f"{s3_folder}/{{00100..02499}}.tar")) == 2400
    with pytest.raises(UserError, match=r"02500\.tar does not exist"):
        storage.glob(f"{s3_folder}/{{02400..02600}}.tar")
    assert [(stat.path, stat.size) for stat in storage.glob(f"{s3_folder}/**/*.txt")] == [
        (f"{s3_folder}/below/b.txt", 2)
    ]
    storage.remove_tree(s3_folder)
    assert storage.glob(f"{s3_folder}/**") == [] and not storage.exists(s3_folder)
    with pytest.raises(UserError, match="whole bucket"):
        storage.remove_tree(s3.url)


@pytest.mark.parametrize("size", [10, 17 * MIB], ids=["one put", "parts"])
def test_the_server_itself_keeps_what_is_there(
    size: int, s3: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the look before the put saw nothing: two puts at the same time."""
    monkeypatch.setattr(S3Store, "_is_taken", lambda *_: False)
    path = storage.join(s3_folder, "once")
    assert storage.put(path, b"1" * size, if_absent=True)
    assert not storage.put(path, b"2" * size, if_absent=True)
    assert storage.read_bytes(path) == b"1" * size
    left = s3.client().call_s3("list_multipart_uploads", Bucket=s3.bucket, Prefix=path.split("/", 3)[3])
    assert not left.get("Uploads")


def test_of_twenty_threads_one_wins(s3_folder: str) -> None:
    path = storage.join(s3_folder, "lock")
    with ThreadPoolExecutor(20) as pool:
        won = list(pool.map(lambda number: storage.put(path, str(number).encode(), if_absent=True), range(20)))
    assert sum(won) == 1 and storage.read_bytes(path) == str(won.index(True)).encode()


RACE = """
import os, sys
from data_pipeline import storage
folder, count = sys.argv[1], int(sys.argv[2])
storage.put(storage.join(folder, "before"), b"the parent has a connection")
ready, go = os.pipe(), os.pipe()
children = []
for number in range(count):
    if not (child := os.fork()):
        os.close(go[1])
        assert storage.read_bytes(storage.join(folder, "before"))
        os.write(ready[1], b".")
        os.read(go[0], 1)  # ends when the parent closes it
        won = storage.put(storage.join(folder, "lock"), str(number).encode(), if_absent=True)
        os._exit(7 if won else 0)
    children.append(child)
for _ in children:
    os.read(ready[0], 1)
os.close(go[1])
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
assert sorted(codes) == [0] * (count - 1) + [7], codes
assert storage.read_bytes(storage.join(folder, "lock")) == str(codes.index(7)).encode()
"""


@pytest.mark.parametrize(("where", "count"), [("local", 20), ("s3", 6)])
def test_of_forked_processes_one_wins(where: str, count: int, s3_folder: str, tmp_path: Path) -> None:
    target = s3_folder if where == "s3" else str(tmp_path)
    command = [sys.executable, "-c", RACE, target, str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


PUTS = """
import sys
from data_pipeline import storage
path, size = sys.argv[1], int(sys.argv[2])
while True:
    for letter in b"ab":
        storage.put(path, bytes([letter]) * size)
        print(".", flush=True)
"""


@pytest.mark.parametrize(("where", "size"), [("local", 20 * MIB), ("s3", 4 * MIB), ("s3", 17 * MIB)])
def test_killed_in_a_put(where: str, size: int, s3_folder: str, tmp_path: Path) -> None:
    """Before the first put is done nothing is there; later the old or the new, never a mixture."""
    path = storage.join(s3_folder if where == "s3" else str(tmp_path), "killed.bin")
    moment = random.Random(size)
    for after in (0, 1, 2):  # puts that are done before
        child = subprocess.Popen([sys.executable, "-c", PUTS, path, str(size)], cwd=ROOT, stdout=subprocess.PIPE)
        assert child.stdout
        for _ in range(after):
            child.stdout.readline()
        time.sleep(moment.uniform(0, 0.15) if after else moment.uniform(0.5, 0.8))  # 0.5 s: its imports
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=30)
        if storage.exists(path):
            data = storage.read_bytes(path)
            assert len(data) == size and data in (b"a" * size, b"b" * size)
        else:
            assert after == 0


@pytest.mark.slow
def test_the_server_killed_in_an_upload(s3: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upload waits for the server and is whole; what was there before stays there."""
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 1.0)
    old, data = storage.join(s3_folder, "old"), some_bytes(40 * MIB)
    storage.put(old, b"old")
    with through(s3, Fault("slow", "PUT", times=2, skip=1, seconds=1.0)), ThreadPoolExecutor(1) as pool:
        putting = pool.submit(storage.put, storage.join(s3_folder, "new"), data)
        time.sleep(0.5)
        s3.kill()
        time.sleep(0.5)
        s3.start()
        assert putting.result(timeout=60)
    assert storage.read_bytes(old) == b"old" and storage.read_bytes(storage.join(s3_folder, "new")) == data


# What goes wrong on the way


@pytest.mark.parametrize("kind", ["reset", "busy", "cut"])
def test_reading_goes_on_after_faults(kind: Any, s3: S3Server, s3_folder: str) -> None:
    data = some_bytes(3 * MIB)
    path = storage.join(s3_folder, "a")
    storage.put(path, data)
    with through(s3, Fault(kind, "GET", times=3, after=100_000)) as proxy:
        assert storage.read_bytes(path) == data
        assert proxy.count("GET") == 4
        proxy.faults.append(Fault(kind, "GET", times=2, after=100_000))
        with storage.open_stream(path) as stream:
            assert stream.read() == data
        proxy.faults.append(Fault(kind, "list-type", times=2, after=100))
        assert storage.listdir(s3_folder) == ["a"] and storage.exists(path)


@pytest.mark.parametrize("kind", ["reset", "busy", "cut upload"])
@pytest.mark.parametrize("size", [MIB, 17 * MIB], ids=["one put", "parts"])
def test_writing_goes_on_after_faults(kind: Any, size: int, s3: S3Server, s3_folder: str) -> None:
    path, data = storage.join(s3_folder, "a"), some_bytes(size)
    with through(s3, Fault(kind, "PUT", times=3, after=300_000)) as proxy:
        assert storage.put(path, data, if_absent=True)
        assert not any(fault.times for fault in proxy.faults)
    assert storage.read_bytes(path) == data


@pytest.mark.parametrize(("size", "match"), [(10, "PUT"), (17 * MIB, "POST")], ids=["one put", "parts"])
def test_a_lost_answer_is_no_lost_race(size: int, match: str, s3: S3Server, s3_folder: str) -> None:
    """The server did as asked, the answer got lost: asked again it says that something is there. It is ours."""
    path = storage.join(s3_folder, "lock")
    with through(s3, Fault("lost answer", match, skip=int(match == "POST"))) as proxy:  # POSTs begin and complete
        assert storage.put(path, b"m" * size, if_absent=True)
        assert proxy.faults[0].times == 0
        assert not storage.put(path, b"o" * size, if_absent=True)
    assert storage.size_of(path) == size


def test_a_server_that_stays_ill_ends_in_a_sentence(
    s3: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "RETRY_SECONDS", 1.0)
    said = r"a: http://127.* failed for \d s \(SlowDown .*same command again"
    with through(s3, Fault("busy", times=1000)), pytest.raises(RunError, match=said):
        storage.read_bytes(storage.join(s3_folder, "a"))


def test_one_that_hangs_is_left_and_asked_again(s3: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONNECT_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(client, name, 0.5)
    storage.put(storage.join(s3_folder, "a"), b"abc")
    with through(s3, Fault("hang", "GET", seconds=5.0), Fault("hang", "PUT", seconds=5.0)) as proxy:
        assert storage.read_bytes(storage.join(s3_folder, "a")) == b"abc" and proxy.count("GET") == 2
        storage.put(storage.join(s3_folder, "b"), b"abc")
        assert proxy.count("PUT") == 2


def test_nobody_there(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_SECONDS", 1.0)
    storage.configure(StorageConfig(endpoint_url="http://127.0.0.1:9"))
    started = time.monotonic()
    with pytest.raises(UserError, match=r"http://127.0.0.1:9 could not be reached .*storage.endpoint_url"):
        storage.read_bytes(storage.join(s3_folder, "a"))
    assert time.monotonic() - started < 20  # its default is 10 s and a try or two


def test_a_sentence_is_not_made_into_another() -> None:
    assert diagnose(UserError("s3://b/a: check `storage.endpoint_url`")) is None
    assert diagnose(KeyError("a mistake of ours")) is None
