"""Samples over the network: few requests, slow ones asked twice, failures retried, and damage told from bad luck."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from configs.data import ReadConfig
from configs.errors import RunError
from configs.ingest import StorageConfig
from data_pipeline import storage
from data_pipeline.stream.read.dataset import BadSample, Dataset, StoredSample
from data_pipeline.stream.read.members import Place
from data_pipeline.stream.read.remote import GAP, LARGEST, RemoteTars, spans
from data_pipeline.stream.read.threads import Threads
from tests.support.fault_proxy import Fault, FaultProxy, spoiling
from tests.support.s3_server import S3Server


@pytest.fixture
def remote(folder: Path, s3_folder: str) -> str:
    for path in folder.iterdir():
        if path.is_file():
            storage.put(storage.join(s3_folder, path.name), path.read_bytes())
    return s3_folder


@contextmanager
def through(s3: S3Server, *faults: Fault) -> Iterator[FaultProxy]:
    with spoiling(s3.endpoint_url, *faults) as proxy:
        storage.configure(StorageConfig(endpoint_url=proxy.url))
        yield proxy
    storage.configure(StorageConfig())


def same(one: StoredSample | BadSample, other: StoredSample | BadSample) -> bool:
    assert isinstance(one, StoredSample) and isinstance(other, StoredSample), (one, other)
    return bytes(one.body) == bytes(other.body) and list(map(bytes, one.images)) == list(map(bytes, other.images))


def test_the_same_samples_in_the_order_asked_with_few_requests(folder: Path, remote: str, s3: S3Server) -> None:
    here = Dataset(str(folder))
    order = np.random.default_rng(0).permutation(60).tolist()
    with through(s3) as proxy:
        there = Dataset(remote)
        assert there.key(59) == here.key(59)
        before = proxy.count(".tar")
        assert all(map(same, there.read_many(order), here.read_many(order)))
        # 60 samples of some KB in three shards: neighbours come together.
        assert proxy.count(".tar") - before == 3
        assert there.conversation(7) == here.conversation(7)


def test_spans_join_what_is_near_and_stay_bounded() -> None:
    def place(start: int, size: int, tar: str = "a") -> Place:
        return Place(tar, "k", ((start + 512, size, 0),), 0)

    near = [place(0, 1000), place(1512 + GAP, 1000), place(10 * GAP, 1000), place(0, 1000, "b")]
    found = spans([near[k] for k in (2, 0, 3, 1)])
    assert [(s.tar, s.start, s.members) for s in found] == [("a", 0, (1, 3)), ("a", 10 * GAP, (0,)), ("b", 0, (2,))]
    many = spans([place(n * 600_000, 599_000) for n in range(40)])
    assert all(span.end - span.start <= LARGEST for span in many) and sum(len(s.members) for s in many) == 40


@pytest.mark.parametrize("kind", ["reset", "busy", "cut"])
def test_failures_are_retried_and_change_nothing(kind: str, folder: Path, remote: str, s3: S3Server) -> None:
    here = Dataset(str(folder))
    with through(s3, Fault(kind, ".tar", times=2)):  # type: ignore[arg-type]
        found = Dataset(remote).read_many(range(60))
    assert all(map(same, found, here.read_many(range(60))))


def test_a_slow_request_is_asked_a_second_time(folder: Path, remote: str, s3: S3Server) -> None:
    here, config = Dataset(str(folder)), ReadConfig(hedge_seconds=0.3)
    with through(s3, Fault("slow", "00001.tar", times=1, seconds=10.0)):
        there = Dataset(remote, config)
        there.key(0)
        start = time.monotonic()
        assert all(map(same, there.read_many(range(60)), here.read_many(range(60))))
        assert time.monotonic() - start < 5.0, "it waited for the slow answer"
        assert isinstance(there._tars, RemoteTars) and there._tars.hedged.hedges >= 1


def test_storage_that_stays_away_ends_the_job(remote: str, s3: S3Server) -> None:
    with through(s3) as proxy:
        there = Dataset(remote, ReadConfig(retry_seconds=2.0, hedge_seconds=0.5))
        there.key(0)
        there.key(20)
        there.key(40)
        proxy.faults.append(Fault("hang", ".tar", times=10**6, seconds=5.0))
        with pytest.raises(RunError, match=r"0000\d\.tar could not be read for 2 s"):
            there.read_many(range(60))


def test_damage_there_is_a_bad_sample(folder: Path, remote: str) -> None:
    place = Dataset(str(folder)).place(25)
    spoiled = bytearray((folder / "00001.tar").read_bytes())
    spoiled[place.members[0][0]] ^= 1
    storage.put(storage.join(remote, "00001.tar"), bytes(spoiled))
    found = Dataset(remote).read_many(range(60))
    assert [n for n, what in enumerate(found) if isinstance(what, BadSample)] == [25]


def test_what_was_read_is_on_the_nodes_disk(folder: Path, remote: str, s3: S3Server, tmp_path: Path) -> None:
    here, config = Dataset(str(folder)), ReadConfig(cache=str(tmp_path))
    assert all(map(same, Dataset(remote, config).read_many(range(60)), here.read_many(range(60))))
    with through(s3) as proxy:
        again = Dataset(remote, config)
        assert all(map(same, again.read_many(range(60)), here.read_many(range(60))))
        assert proxy.count(".tar") == 0


def test_a_worn_cache_never_makes_a_bad_sample(folder: Path, remote: str, tmp_path: Path) -> None:
    here, config = Dataset(str(folder)), ReadConfig(cache=str(tmp_path))
    Dataset(remote, config).read_many(range(60))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 60 + 3, "60 samples and 3 indexes"
    for number, path in enumerate(files):
        data = bytearray(path.read_bytes())
        data[(len(data) * number) // 63] ^= 16
        path.write_bytes(data if number % 3 else data[: len(data) // 2])
    # Also without checksums elsewhere: the disk is not what the user chose to trust.
    found = Dataset(remote, config.model_copy(update={"checksums": False})).read_many(range(60))
    assert all(map(same, found, here.read_many(range(60))))


def test_a_slow_index_is_asked_for_again_too(folder: Path, remote: str, s3: S3Server) -> None:
    here, config = Dataset(str(folder)), ReadConfig(hedge_seconds=0.3)
    with through(s3, *(Fault("slow", f"0000{n}.index", times=1, seconds=10.0) for n in range(3))):
        there = Dataset(remote, config)
        start = time.monotonic()
        assert all(map(same, there.read_many(range(60)), here.read_many(range(60))))
        assert time.monotonic() - start < 5.0, "it waited for the slow answers"


def test_indexes_are_on_the_nodes_disk_and_a_worn_one_is_fetched(
    folder: Path, remote: str, s3: S3Server, tmp_path: Path
) -> None:
    config = ReadConfig(cache=str(tmp_path))
    Dataset(remote, config).key(25)
    (kept,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    with through(s3) as proxy:
        assert Dataset(remote, config).key(25) == f"{25:012d}" and proxy.count(".index") == 0
        data = bytearray(kept.read_bytes())
        data[len(data) // 2] ^= 1
        kept.write_bytes(data)
        assert Dataset(remote, config).key(25) == f"{25:012d}" and proxy.count(".index") == 1


def test_a_process_ends_although_the_storage_hangs() -> None:
    code = "import time, sys; from data_pipeline.stream.read.threads import Threads; "
    code += "Threads(4, 'x').submit(lambda: time.sleep(300)); print('done')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "done\n"


def test_threads_give_results_errors_and_go_with_their_owner() -> None:
    threads = Threads(3, "gone")
    answers = [threads.submit(partial(divmod, 7, n % 4)) for n in range(40)]
    for n, answer in enumerate(answers):
        if n % 4:
            assert answer.result(10) == divmod(7, n % 4)
        else:
            assert isinstance(answer.exception(10), ZeroDivisionError)
    mine = [thread for thread in threading.enumerate() if thread.name.startswith("gone-")]
    assert 1 <= len(mine) <= 3
    del threads
    for thread in mine:
        thread.join(10)
        assert not thread.is_alive()
