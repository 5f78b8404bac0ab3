"""Nodes that meet in a folder before they start, and the judgement of what failed."""

import threading
from pathlib import Path

import pytest

from cluster.gather import Apart, gather
from cluster.launch import RankFailure
from cluster.place import Node
from configs.errors import FAILED, NO_REQUEUE, REQUEUE
from pretrain.attempts import MOST_STARTS, Attempts, InVain


def node(number: int, attempt: str = "7.0") -> Node:
    return Node(number, 2, 1, ("n1", "n2"), "n1", 12007, "7", attempt)


def together(folders: list[Path], refused: str | None = None) -> list[str]:
    """Two nodes gather, each in its folder; returns what each says."""
    said = ["", ""]

    def one(number: int) -> None:
        try:
            gather(folders[number], node(number), refused if number else None, seconds=1.0)
        except Apart as error:
            said[number] = str(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return said


def test_nodes_that_share_a_folder_meet_and_tidy_up(tmp_path: Path) -> None:
    (tmp_path / "start-6.3").mkdir()
    assert together([tmp_path, tmp_path]) == ["", ""]
    assert [path.name for path in tmp_path.iterdir()] == ["start-7.0"]


def test_nodes_that_do_not_share_a_folder_both_say_so(tmp_path: Path) -> None:
    first, second = together([tmp_path / "a", tmp_path / "b"])
    assert "on n1 does not show what n2 wrote there: the folder is not shared between the nodes" in first
    assert "on n2 does not show what n1 wrote there" in second


def test_what_one_node_refuses_all_do(tmp_path: Path) -> None:
    said = together([tmp_path, tmp_path], "data/00000.tar is missing")
    assert said == ["data/00000.tar is missing (on node n2)"] * 2


def judge(folder: Path, attempt: str, status: int, line: str, step: int = 20, number: int = 0) -> int:
    failure = RankFailure(0, status, folder / "rank-0.log", ["step 3", line])
    return Attempts(folder, node(number, attempt), 3).judge(failure, step).exit_code


def test_the_same_failure_twice_is_the_programs(tmp_path: Path) -> None:
    assert judge(tmp_path, "7.0", FAILED, "ValueError: x") == REQUEUE
    assert judge(tmp_path, "7.0", FAILED, "ValueError: x", number=1) == REQUEUE, "beside it, not after it"
    assert judge(tmp_path, "7.1", FAILED, "OSError: y") == REQUEUE
    assert judge(tmp_path, "7.2", FAILED, "ValueError: x", step=40) == REQUEUE, "there was a newer checkpoint"
    assert judge(tmp_path, "7.3", FAILED, "ValueError: x") == NO_REQUEUE


def test_failures_without_a_newer_checkpoint_are_counted(tmp_path: Path) -> None:
    codes = [judge(tmp_path, f"7.{k}", -9, "step 7") for k in range(5)]
    assert codes == [REQUEUE, REQUEUE, REQUEUE, NO_REQUEUE, NO_REQUEUE]
    assert judge(tmp_path, "7.9", FAILED, "Connection closed by peer") == REQUEUE, "the peer's node decides"
    assert judge(tmp_path, "7.9", NO_REQUEUE, "fenced") == NO_REQUEUE


def test_starts_that_come_to_nothing_end_the_job(tmp_path: Path) -> None:
    for attempt in range(MOST_STARTS):
        Attempts(tmp_path, node(0, f"7.{attempt}"), 3).begin(20)
    with pytest.raises(InVain, match=f"{MOST_STARTS} starts of job 7 in a row found no newer checkpoint than step 20"):
        Attempts(tmp_path, node(0, "7.99"), 3).begin(20)
    Attempts(tmp_path, node(0, "7.99"), 3).begin(40)
