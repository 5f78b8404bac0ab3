"""The demo's real data: the embedded emoji set and the easy-VQA wheel."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.ingest import EasyVqaSource, FiltersConfig, TableSource, TextConfig
from configs.load import load_recipe
from configs.schema import BuildRecipe
from data_pipeline.ingest.compose import compose
from data_pipeline.ingest.decode import decode
from data_pipeline.ingest.filters.rules import Filters
from data_pipeline.ingest.sources.easy_vqa import easy_vqa_folder
from data_pipeline.ingest.sources.finding import emoji_path
from data_pipeline.ingest.sources.listing import list_records
from data_pipeline.ingest.sources.reading import read_cell
from data_pipeline.sample import IMAGE_MARK


def test_the_emoji_set_is_whole_small_and_split_by_label() -> None:
    path = Path(emoji_path())
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
    both = [list_records(TableSource(path="package:emoji", where={"split": split})) for split in ("train", "heldout")]
    kept = [[record for record in part if not record.problem] for part in both]
    assert sorted(record.provenance["row"] for part in kept for record in part) == list(range(1854))
    assert {len(part) for part in both} == {1854}, "rows of the other split are input rows too"
    assert {str(r.problem and r.problem.reason) for part in both for r in part} == {"None", "where"}
    assert read_cell(kept[0][0].images[0])[:4] == b"RIFF"


@pytest.mark.parametrize(("split", "pictures", "questions"), [("train", 4000, 38_575), ("test", 1000, 9_673)])
def test_every_published_question_is_kept_once(split: str, pictures: int, questions: int) -> None:
    import json

    published = json.loads((easy_vqa_folder() / split / "questions.json").read_text())
    assert len(published) == questions
    source = EasyVqaSource(split=split)  # type: ignore[arg-type]
    records = list_records(source)
    filters = Filters(FiltersConfig(), TextConfig())
    assert not [record for record in records if record.problem or filters.before_fetch(record)]
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
    records = [record for record in list_records(recipe.source) if not record.problem]
    made = compose(records, recipe.compose) if recipe.compose else records
    assert sum(len(record.images) for record in made) == len(records)
    if name.endswith("train"):
        several = sum(len(record.images) > 1 for record in made)
        assert several / len(made) >= 0.25, "at least a quarter of the training samples carries several pictures"
