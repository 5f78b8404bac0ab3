"""The easy-VQA wheel: pictures of shapes, their questions in conversations -> records."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from configs.errors import UserError
from configs.ingest import EasyVqaSource
from data_pipeline.ingest.record import ImageRef, Record
from data_pipeline.ingest.sources.found import Found
from data_pipeline.sample import IMAGE_MARK, Message
from data_pipeline.storage import stat_of


def find_easy_vqa(source: EasyVqaSource) -> list[Found]:
    """The split's folder as one input."""
    folder = easy_vqa_folder() / source.split
    questions = stat_of(str(folder / "questions.json"))
    return [Found(str(folder), source.split, "easy_vqa", questions.size, questions.stamp)]


def easy_vqa_records(source: EasyVqaSource, found: Found) -> Iterator[Record]:
    """One record for at most `questions` questions of a picture; ids are positions in the published questions.json."""
    folder = Path(found.path)
    by_picture: dict[int, list[tuple[int, str, str]]] = {}
    for number, (question, answer, picture) in enumerate(json.loads((folder / "questions.json").read_text())):
        by_picture.setdefault(picture, []).append((number, question, answer))
    for picture, asked in sorted(by_picture.items()):
        random.Random(f"{source.seed}:{picture}").shuffle(asked)
        for start in range(0, len(asked), source.questions):
            # What names the shape or colour comes last: before it, nothing gives the other answers away.
            part = sorted(asked[start : start + source.questions], key=lambda item: item[1].startswith("what"))
            turns = [
                m for _, question, answer in part for m in (Message("user", question), Message("assistant", answer))
            ]
            turns[0] = Message("user", IMAGE_MARK + turns[0].content)
            provenance = {"image_ids": [picture], "question_ids": [[number for number, _, _ in part]]}
            ref = ImageRef(str(folder / "images" / f"{picture}.png"))
            yield Record((ref,), messages=tuple(turns), provenance=provenance)


def easy_vqa_folder() -> Path:
    """The data folder of the easy-vqa wheel."""
    import importlib.util

    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or spec.origin is None:
        raise UserError("the easy-vqa package is not installed: pip install easy-vqa")
    return Path(spec.origin).parent / "data"
