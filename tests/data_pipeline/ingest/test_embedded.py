"""The demo's real data: the embedded emoji set and the easy-VQA wheel."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.ingest import EasyVqaSource, ParquetSource, TextConfig
from configs.load import load_recipe
from configs.schema import BuildRecipe
from data_pipeline.ingest.compose import compose
from data_pipeline.ingest.decode import decode
from data_pipeline.ingest.sources import easy_vqa_folder, list_records, parquet_path, read_image
from data_pipeline.ingest.units import _text_problem
from data_pipeline.sample import IMAGE_MARK


def test_the_emoji_set_is_whole_small_and_split_by_label() -> None:
    path = Path(parquet_path("package:emoji"))
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == len({row["image"]["path"] for row in rows}) == 1854
    assert path.stat().st_size < 4 * 2**20
    assert all(row["text"].startswith(row["label"]) for row in rows)
    labels = {split: {row["label"] for row in rows if row["split"] == split} for split in ("train", "heldout")}
    assert not labels["train"] & labels["heldout"], "a label is on both sides of the split"
    # 177 held out; a hundred are retrieved among, and a tenth was asked for.
    assert 150 <= len(labels["heldout"]) <= 220
    assert not any("skin tone" in row["label"] for row in rows)
    for row in rows[::40]:
        assert decode(row["image"]["bytes"], 10**6).size == (112, 112)
    for name in ("NOTICE", "README.md"):
        assert "MIT" in (path.parent / name).read_text(encoding="utf-8")


def test_the_splits_are_the_whole() -> None:
    both = [list_records(ParquetSource(path="package:emoji", where={"split": split})) for split in ("train", "heldout")]
    rows = [record.provenance["row"] for part in both for record in part]
    assert sorted(rows) == list(range(1854))
    assert read_image(both[0][0].images[0])[:4] == b"RIFF"


@pytest.mark.parametrize(("split", "pictures", "questions"), [("train", 4000, 38_575), ("test", 1000, 9_673)])
def test_every_published_question_is_kept_once(split: str, pictures: int, questions: int) -> None:
    import json

    published = json.loads((easy_vqa_folder() / split / "questions.json").read_text())
    assert len(published) == questions
    source = EasyVqaSource(split=split)  # type: ignore[arg-type]
    records = list_records(source)
    assert not [record for record in records if record.problem or _text_problem(record, TextConfig())]
    seen = Counter(number for record in records for group in record.provenance["question_ids"] for number in group)
    assert sorted(seen) == list(range(questions)) and set(seen.values()) == {1}
    assert len({record.images[0].path for record in records}) == pictures
    for record in records[::50]:
        talk = record.messages or ()
        for place, number in enumerate(record.provenance["question_ids"][0]):
            question, answer, picture = published[number]
            assert talk[2 * place].content.removeprefix(IMAGE_MARK) == question
            assert talk[2 * place + 1].content == answer
            assert record.images[0].path.endswith(f"/{split}/images/{picture}.png")
        assert talk[0].content.startswith(IMAGE_MARK) and len(talk) <= 2 * source.questions


@pytest.mark.parametrize("name", ["demo_emoji_train", "demo_emoji_heldout", "demo_vqa_train", "demo_vqa_test"])
def test_the_demo_recipes_list_their_rows(name: str) -> None:
    recipe = load_recipe(name)
    assert isinstance(recipe, BuildRecipe)
    records = list_records(recipe.source)
    made = compose(records, recipe.compose) if recipe.compose else records
    assert sum(len(record.images) for record in made) == len(records)
    if name.endswith("train"):
        several = sum(len(record.images) > 1 for record in made)
        assert several / len(made) >= 0.25, "at least a quarter of the training samples carries several pictures"
