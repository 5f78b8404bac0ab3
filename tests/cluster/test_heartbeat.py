"""Signs of life: who is blamed, and that a rank that stops is named within its time."""

import threading
import time

from cluster.heartbeat import Beat, Heart, blame


class Store:
    """A key-value store in this process."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def get(self, key: str) -> bytes:
        return self.values[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)


def beat(place: str, count_since: float, place_since: float, host: str = "n1") -> Beat:
    return Beat(9, place, host, count_since, place_since)


def test_the_rank_without_a_sign_is_blamed() -> None:
    beats = {0: beat("step 7, backward", 99.0, 90.0), 1: beat("step 7, backward", 80.0, 80.0, "n2")}
    assert blame(beats, 100.0, 10.0, 300.0) == (
        "rank 1 on n2 has given no sign of life for 20 s; it was in step 7, backward"
    )
    assert blame(beats, 100.0, 25.0, 300.0) is None


def test_the_rank_that_the_others_wait_for_is_blamed() -> None:
    beats = {
        0: beat("step 8, forward", 100.0, 50.0),
        1: beat("step 7, data", 100.0, 50.0, "n2"),
        2: beat("step 7, wait", 100.0, 50.0),
    }
    said = blame(beats, 100.0, 10.0, 40.0)
    assert said is not None and said.startswith("rank 1 on n2 hangs: it has been in step 7, data for 50 s")
    beats[2].place_since = 99.0
    assert blame(beats, 100.0, 10.0, 40.0) is None, "somebody moves: they may be slow, they do not hang"


def test_a_start_may_take_its_time() -> None:
    beats = {0: beat("its start", 100.0, 0.0), 1: beat("step 7, wait", 100.0, 0.0)}
    assert blame(beats, 100.0, 10.0, 40.0) is None


def test_a_job_whose_rank_stops_ends_everywhere() -> None:
    store, said = Store(), dict[int, str]()
    ended = threading.Event()

    def end_of(rank: int) -> "object":
        def end(sentence: str) -> None:
            said[rank] = sentence
            if len(said) == 2:
                ended.set()

        return end

    hearts = [Heart(store, rank, 3, f"n{rank}", 3.0, 60.0, end_of(rank)) for rank in range(3)]  # type: ignore[arg-type]
    for heart in hearts:
        heart.at(5, "forward")
        heart.start()
    time.sleep(2.5)
    assert not said
    hearts[2]._over.set()  # no more signs, as if it had been stopped
    store.set("beat/2", store.values["beat/2"])
    begun = time.monotonic()
    while "beat/2" in store.values and not store.values["beat/2"].split("|")[1].startswith("over"):
        time.sleep(0.05)
        assert time.monotonic() - begun < 5
    count, _, host = store.values["beat/2"].split("|")
    store.set("beat/2", f"{count}|step 5, forward|{host}")  # it said nothing at its end
    assert ended.wait(15.0)
    assert said[0] == said[1] and said[0].startswith("rank 2 on n2 has given no sign of life for")
    for heart in hearts:
        heart.close()


def test_a_store_that_does_not_answer_is_the_first_ranks_end() -> None:
    class Stopped(Store):
        stopped = threading.Event()

        def check(self, keys: list[str]) -> bool:
            if self.stopped.is_set():
                time.sleep(30)
            return super().check(keys)

    store, said = Stopped(), list[str]()
    store.set("beat/0", "1|step 3, forward|n7")
    heart = Heart(store, 1, 2, "n8", 3.0, 60.0, said.append)
    heart.start()
    time.sleep(1.5)
    store.stopped.set()
    begun = time.monotonic()
    while not said and time.monotonic() - begun < 20:
        time.sleep(0.05)
    assert said and said[0].startswith("rank 0 on n7 has given no sign of life for ")
    assert time.monotonic() - begun < 12


def test_ranks_that_end_in_good_order_are_not_missed() -> None:
    store, said = Store(), list[str]()
    hearts = [Heart(store, rank, 2, "n", 3.0, 60.0, said.append) for rank in range(2)]
    for heart in hearts:
        heart.start()
    time.sleep(1.5)
    hearts[1].close()
    time.sleep(5.0)
    hearts[0].close()
    assert said == []
