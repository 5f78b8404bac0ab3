"""What a row is: pairs, conversations, preferences, in every notation that is usual; marks and pictures agree."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.ingest.record import Record
from data_pipeline.sample import Message
from tests.data_pipeline.ingest.sources.conftest import problems, rows, table


def as_lines(tmp_path: Path, *given: Any, **more: Any) -> list[Record]:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    return rows(table(tmp_path / "rows.jsonl", **more), tmp_path)


def turns(record: Record) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in record.messages or ()]


TALK = [("user", "<image>\nwhat is it?"), ("assistant", "a cat")]
LLAVA = [{"from": "human", "value": "<image>\nwhat is it?"}, {"from": "gpt", "value": "a cat"}]
ROLES = [{"role": "user", "content": "<image>\nwhat is it?"}, {"role": "assistant", "content": "a cat"}]
PARTS = [
    {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "\nwhat is it?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
]


@pytest.mark.parametrize(("name", "talk"), [("conversations", LLAVA), ("messages", ROLES), ("messages", PARTS)])
@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_conversations(tmp_path: Path, name: str, talk: list, ending: str) -> None:
    given = [{"id": "a1", "image": "http://x/1.jpg", name: talk}, {"id": "a2", "image": "http://x/2.jpg", name: talk}]
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(given), path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in given) if ending == "jsonl" else json.dumps(given))
    made = rows(table(path), tmp_path)
    assert [turns(r) for r in made] == [TALK, TALK]
    assert [r.images[0].path for r in made] == ["http://x/1.jpg", "http://x/2.jpg"]
    assert [r.provenance["id"] for r in made] == ["a1", "a2"] and made[0].text is None


def test_marks_and_pictures(tmp_path: Path) -> None:
    plain = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "that"}]
    made = as_lines(
        tmp_path,
        {"messages": plain},
        {"image": None, "messages": plain},
        {"image": None, "messages": ROLES},
        {"messages": ROLES},
        {"image": ["http://x/1", "http://x/2"], "messages": plain},
        {"images": "http://x/1", "messages": plain},
    )
    gap = "source/no_image"
    assert problems(made) == [None, None, gap, gap, None, None]
    assert [r.images for r in made[:2]] == [(), ()]
    assert turns(made[4])[0] == ("user", "<image><image>what?") and turns(made[5])[0] == ("user", "<image>what?")


def test_system_turns_go_in_front_of_the_first_user_turn_and_other_roles_stay(tmp_path: Path) -> None:
    say = lambda *pairs: {"messages": [{"role": role, "content": content} for role, content in pairs]}  # noqa: E731
    made = as_lines(
        tmp_path,
        say(("system", "be brief"), ("user", "a"), ("assistant", "b"), ("system", "truly"), ("user", "c")),
        say(("system", "alone"), ("assistant", "b")),
        say(("user", "a"), ("tool", "x"), ("assistant", "b")),
    )
    assert turns(made[0]) == [("user", "be brief\ntruly\na"), ("assistant", "b"), ("user", "c")]
    # Filters refuse these by their roles.
    assert [[role for role, _ in turns(r)] for r in made[1:]] == [
        ["system", "assistant"],
        ["user", "tool", "assistant"],
    ]


@pytest.mark.parametrize(
    "talk",
    [
        None,
        "text",
        {"role": "user"},
        ["a"],
        [{"role": "user"}],
        [{"content": "a"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "video"}]}],
        [{"role": "user", "content": [[]]}],
        [{"role": ["user"], "content": "a"}],
    ],
)
def test_a_conversation_that_is_none(tmp_path: Path, talk: Any) -> None:
    made = as_lines(tmp_path, {"messages": talk}, {"messages": ROLES, "image": "http://x/1"})
    assert problems(made) == ["source/bad_json", None]


def test_preference_rows(tmp_path: Path) -> None:
    question, good, bad = "what is it?", "a cat", "a dog"
    whole = lambda answer: [*({"role": "user", "content": question},), {"role": "assistant", "content": answer}]  # noqa: E731
    made = as_lines(
        tmp_path,
        {"image": "http://x/1", "question": question, "chosen": good, "rejected": bad},
        {"image": "http://x/1", "question": "<image>" + question, "chosen": good, "rejected": bad},
        {"image": "http://x/1", "chosen": whole(good), "rejected": whole(bad)},
        {"image": "http://x/1", "prompt": whole("x")[:1], "chosen": whole(good)[1:], "rejected": whole(bad)[1:]},
        {"question": question, "chosen": good, "rejected": bad},
        {"image": "http://x/1", "question": "", "chosen": good, "rejected": bad},
        {"image": "http://x/1", "question": question, "chosen": good, "rejected": None},
        {"image": "http://x/1", "question": question, "chosen": whole(good)[:1], "rejected": whole(bad)},
    )
    assert problems(made) == [None] * 5 + ["source/bad_json"] * 3
    for record in made[:4]:
        assert turns(record) == [("user", "<image>" + question), ("assistant", good)] and record.rejected == bad
    assert made[4].messages == (Message("user", question), Message("assistant", good)) and made[4].images == ()


def test_preference_columns_of_other_names(tmp_path: Path) -> None:
    row = {"url": "http://x/1", "ask": "q", "yes": "a", "no": "b", "text": "unused"}
    names = {"question_column": "ask", "chosen_column": "yes", "rejected_column": "no"}
    (record,) = as_lines(tmp_path, row, **names)
    assert turns(record) == [("user", "<image>q"), ("assistant", "a")] and record.rejected == "b"


def test_names_are_found_by_habit_and_exactly_where_they_are_given(tmp_path: Path) -> None:
    row = {"Image": "http://x/habit", "CAPTION": "habit", "other": "http://x/named", "words": "named"}
    assert as_lines(tmp_path, row)[0].text == "habit"
    (named,) = as_lines(tmp_path, row, image_column="other", text_column="words")
    assert (named.text, named.images[0].path) == ("named", "http://x/named")
    both = {"image": "http://x/1", "text": "a caption", "messages": ROLES}
    assert as_lines(tmp_path, both)[0].text is None and as_lines(tmp_path, both, rows="pairs")[0].messages is None


def test_provenance_is_json_and_short(tmp_path: Path) -> None:
    row = {"url": "http://x/1", "text": "a", "id": 7, "label": ["no", "list"], "Key": "K", "source": "s" * 5000, "n": 1}
    (record,) = as_lines(tmp_path, row)
    assert record.provenance == {"url": "http://x/1", "id": 7, "Key": "K", "line": 1}
    assert as_lines(tmp_path, row, keep_columns=[])[0].provenance == {"line": 1}
    kept = as_lines(tmp_path, row, keep_columns=["label", "source"])[0].provenance
    assert kept == {"label": ["no", "list"], "source": "s" * 5000, "line": 1}
