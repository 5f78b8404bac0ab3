"""Whose turn it is to write: of an old start and a new one, what the old one commits late counts for nothing."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from configs.errors import UserError
from data_pipeline import storage
from pretrain.checkpoint.head import KEPT_VERSIONS, Entry, Fenced, Head, Heads, kept
from pretrain.checkpoint.leftovers import leftovers_of

RACES = int(os.environ.get("LOOKSAY_RACES", "40"))
"""The full form is LOOKSAY_RACES=1000."""


def entry(step: int, generation: int) -> Entry:
    return Entry(step, generation, f"step-{step:08d}.g{generation:08d}", "0" * 64, 1.0)


def commit(heads: Heads, generation: int, step: int) -> Head:
    return heads.change(generation, lambda head: replace(head, entries=(*head.entries, entry(step, generation))))


def race(root: str) -> tuple[Head, list[str]]:
    """An old start commits while a new one claims and commits: the last head, and what each was told."""
    old = Heads(root).claim().generation
    told: list[str] = []
    ready = threading.Barrier(2)

    def stale() -> None:
        ready.wait()
        for step in (10, 20, 30):
            try:
                commit(Heads(root), old, step)
                told.append(f"old {step}")
            except Fenced:
                told.append(f"fenced {step}")

    def fresh() -> None:
        ready.wait()
        new = Heads(root).claim()
        told.append(f"claimed {new.steps}")
        commit(Heads(root), new.generation, 15)

    threads = [threading.Thread(target=stale), threading.Thread(target=fresh)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Heads(root).read(), told


def check_race(root: str) -> None:
    head, told = race(root)
    claimed = next(text for text in told if text.startswith("claimed"))
    seen = json.loads(claimed.removeprefix("claimed "))
    committed = [int(text.split()[1]) for text in told if text.startswith("old")]
    assert committed == seen, "what the old start was told is committed, the new one saw; nothing else"
    assert [(e.step, e.generation) for e in head.entries if e.generation == head.generation] == [(15, head.generation)]
    assert sorted(e.step for e in head.entries if e.generation != head.generation) == seen


@pytest.mark.parametrize("number", range(RACES))
def test_a_stale_commit_never_counts(tmp_path: Path, number: int) -> None:
    check_race(str(tmp_path))


def test_nor_on_s3(s3_folder: str) -> None:
    for number in range(max(3, RACES // 10)):
        check_race(storage.join(s3_folder, str(number)))


def test_a_number_that_was_tidied_away_is_no_way_in(tmp_path: Path) -> None:
    heads = Heads(str(tmp_path))
    old = heads.claim().generation
    asleep = heads.read()
    new = heads.claim().generation
    for step in range(KEPT_VERSIONS + 5):
        commit(heads, new, step)
    assert not (tmp_path / "head" / f"{asleep.version + 1:08d}.json").exists(), "the number is free again"

    class Asleep(Heads):
        """Read long ago, puts now."""

        first = True

        def read(self) -> Head:
            if self.first:
                self.first = False
                return asleep
            return super().read()

    with pytest.raises(Fenced):
        commit(Asleep(str(tmp_path)), old, 99)
    assert heads.read().entry(99) is None and heads.read().generation == new


def test_a_generation_never_comes_twice_even_over_damage(tmp_path: Path) -> None:
    heads = Heads(str(tmp_path))
    first = heads.claim()
    newest = sorted((tmp_path / "head").iterdir())[-1]
    newest.write_text(newest.read_text().replace('"pid"', '"pib"'))
    assert heads.read().generation == 0, "a damaged version does not count"
    assert heads.claim().generation > first.generation


def test_a_newer_format_says_so(tmp_path: Path) -> None:
    heads = Heads(str(tmp_path))
    heads.claim()
    (path,) = (tmp_path / "head").iterdir()
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 3'))
    with pytest.raises(UserError, match="has schema 3, this looksay reads 2: it was written by a newer version"):
        heads.read()


@pytest.mark.parametrize("folder", ["../../etc", "/tmp/x", "step-00000001.g00000001/..", "other"])
def test_a_head_that_names_a_folder_elsewhere_is_damaged(tmp_path: Path, folder: str) -> None:
    heads = Heads(str(tmp_path))
    generation = heads.claim().generation
    bad = replace(entry(1, generation), folder=folder)
    heads.change(generation, lambda head: replace(head, entries=(bad,)))
    assert heads.read().entries == (), "the version before is taken"


def test_what_is_kept() -> None:
    entries = [replace(entry(step, 1), score=abs(step - 35) + 0.5) for step in range(10, 101, 10)]

    def steps(**rule: object) -> list[int]:
        return [e.step for e in kept(entries, **rule)]  # type: ignore[arg-type]

    assert steps(keep_last=2) == [90, 100]
    assert steps(keep_last=1, keep_every=30) == [30, 60, 90, 100]
    assert steps(keep_last=1, keep_best=True) == [30, 100]
    assert [e.step for e in kept([entry(step, 1) for step in (1, 2)], 1, keep_best=True)] == [2], "nothing has a score"


def test_leftovers_are_what_no_head_names(tmp_path: Path) -> None:
    heads = Heads(str(tmp_path))
    first = heads.claim().generation
    commit(heads, first, 10)
    second = heads.claim().generation
    for name in (
        entry(10, first).folder,
        entry(20, first).folder,
        entry(20, second).folder,
        f"frozen.g{first:08d}",
        "mine",
    ):
        (tmp_path / name).mkdir()
    found = leftovers_of(str(tmp_path), heads.read())
    assert sorted(found) == [f"frozen.g{first:08d}", entry(20, first).folder], "the newest start may be writing its own"


def test_starts_in_vain_are_counted(tmp_path: Path) -> None:
    heads = Heads(str(tmp_path))
    assert [heads.claim().starts_in_vain() for _ in range(3)] == [1, 2, 3]
    commit(heads, heads.read().generation, 5)
    assert heads.read().starts_in_vain() == 0
    assert heads.claim().starts_in_vain() == 1
