"""Joining records: nothing lost, nothing twice, enough samples of several pictures."""

from collections import Counter

import numpy as np
import pytest

from configs.ingest import ComposeConfig
from data_pipeline.ingest.compose import compose
from data_pipeline.ingest.record import ImageRef, Record
from data_pipeline.sample import IMAGE_MARK, Message, Reject

CYCLE = (1, 1, 2, 1, 3, 1, 4)
CANVASES = ((96, 96), (128, 128), (160, 128))


def records(count: int, distinct: int, seed: int = 0, chat: float = 0.0) -> list[Record]:
    """`count` rows over `distinct` pictures: a picture occurs several times, as in easy-VQA."""
    random = np.random.default_rng(seed)
    out = []
    for number in range(count):
        picture = (ImageRef(f"folder/{random.integers(distinct)}.png"),)
        provenance = {"row": number, "ids": [number]}
        if random.random() < chat:
            talk = (Message("user", IMAGE_MARK + f"what is {number}?"), Message("assistant", str(number)))
            out.append(Record(picture, messages=talk, provenance=provenance))
        else:
            out.append(Record(picture, text=f"text {number}", provenance=provenance))
    return out


def rows_of(record: Record) -> list[int]:
    value = record.provenance["row"]
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize(("count", "distinct", "chat"), [(1, 1, 0), (2, 1, 0), (70, 9, 0), (400, 60, 0.5), (99, 99, 1)])
def test_every_record_once_and_no_picture_twice_in_a_sample(count: int, distinct: int, chat: float) -> None:
    given = records(count, distinct, chat=chat)
    made = compose(given, ComposeConfig(seed=3, pictures=CYCLE, canvases=CANVASES))
    assert sorted(row for record in made for row in rows_of(record)) == list(range(count))
    for record in made:
        paths = [image.path for image in record.images]
        assert len(set(paths)) == len(paths), f"a picture stands twice in {paths}"
        rows = rows_of(record)
        assert [given[row].images[0].path for row in rows] == paths, "pictures and their provenance are not in step"
        if record.messages is None:
            texts = "".join(f"{IMAGE_MARK}text {row}" for row in rows)
            assert record.text == (texts if len(rows) > 1 else f"text {rows[0]}")
        else:
            assert [m.content for m in record.messages] == [m.content for r in rows for m in given[r].messages or ()]
        if len(rows) > 1:
            assert record.provenance["ids"] == rows, "lists of provenance did not join"


def test_a_quarter_carries_several_pictures_of_several_sizes() -> None:
    made = compose(records(2000, 700), ComposeConfig(pictures=CYCLE, canvases=CANVASES))
    counts = Counter(len(record.images) for record in made)
    # The cycle makes 3 of 7 samples (0.43); measured 0.43 here. The issue asks for a quarter.
    assert sum(counts[n] for n in (2, 3, 4)) / len(made) >= 0.4
    assert set(counts) == {1, 2, 3, 4}
    assert {image.canvas for record in made for image in record.images} == set(CANVASES)


def test_a_picture_has_one_canvas_wherever_it_stands() -> None:
    made = compose(records(500, 40), ComposeConfig(pictures=CYCLE, canvases=CANVASES))
    canvases: dict[str, set] = {}
    for record in made:
        for image in record.images:
            canvases.setdefault(image.path, set()).add(image.canvas)
    assert all(len(found) == 1 for found in canvases.values())
    moved = [Record((ImageRef("elsewhere/1.png"),), text="a")]
    assert compose(moved, ComposeConfig(canvases=CANVASES))[0].images[0].canvas in canvases["folder/1.png"]


def test_the_seed_alone_decides() -> None:
    given = records(100, 30)
    config = ComposeConfig(seed=1, pictures=CYCLE)
    assert compose(given, config) == compose(given, config)
    assert compose(given, config) != compose(given, ComposeConfig(seed=2, pictures=CYCLE))


def test_broken_records_and_those_of_several_pictures_pass_unchanged() -> None:
    odd = [
        Record((ImageRef("a.png"), ImageRef("b.png")), text="two"),
        Record((ImageRef("c.png"),), problem=Reject("source", "no_sidecar")),
        Record((ImageRef("d.png"),), messages=(Message("user", "?"), Message("assistant", "a")), rejected="b"),
        Record((), text="no picture"),
    ]
    made = compose([*records(10, 10), *odd], ComposeConfig())
    assert all(record in made for record in odd)


def test_members_of_one_tar_are_different_pictures_and_columns_stay_where_they_agree() -> None:
    given = [
        Record((ImageRef("x.tar", offset=512 * n, size=9),), text=str(n), columns={"lang": "en", "n": n})
        for n in range(1, 5)
    ]
    (made,) = compose(given, ComposeConfig(pictures=(4,), canvases=CANVASES))
    assert sorted(image.offset for image in made.images) == [512, 1024, 1536, 2048]
    assert made.columns == {"lang": "en", "n": None}
    # A picture of a file, or of a row, is drawn where it always was.
    first = compose([Record((ImageRef("a.png"),), text="a")], ComposeConfig(canvases=CANVASES))[0].images[0]
    known = compose([Record((ImageRef("b/a.png", offset=0, size=4),), text="a")], ComposeConfig(canvases=CANVASES))[0]
    assert first.canvas == known.images[0].canvas
