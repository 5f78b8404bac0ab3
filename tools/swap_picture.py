"""Draws docs/swap.png, the README's first picture, from a finished demo: one question, two pictures, a blank, the answers.

python tools/swap_picture.py runs/demo/sft docs/swap.png
"""

import io
import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from data_pipeline.stream.read.dataset import Dataset

SIDE, GAP, LINE, TYPE = 208, 24, 34, 22
INK, PALE, PAPER = (28, 30, 36), (110, 114, 124), (255, 255, 255)


def face_picture(face: dict, dataset: Dataset, blank: tuple[int, int, int]) -> Image.Image:
    """What the model saw, SIDE pixels square."""
    if face["sample"] < 0:
        return Image.new("RGB", (SIDE, SIDE), blank)
    with Image.open(io.BytesIO(dataset.read(face["sample"]).images[face["number"]])) as picture:
        return picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)


def draw(run: Path, target: Path, rows: int = 2) -> None:
    """Write the picture of the showcase's first rows."""
    shown = json.loads((run / "evaluation" / "showcase.json").read_bytes())
    dataset, chosen = Dataset(shown["dataset"]), shown["rows"][:rows]
    height = len(chosen) * (SIDE + 2 * LINE + GAP) + GAP
    canvas = Image.new("RGB", (3 * (SIDE + GAP) + GAP, height), PAPER)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(TYPE)
    for number, row in enumerate(chosen):
        top = GAP + number * (SIDE + 2 * LINE + GAP)
        pen.text((GAP, top), row["question"], INK, font)
        for place, face in enumerate(row["faces"]):
            left = GAP + place * (SIDE + GAP)
            canvas.paste(face_picture(face, dataset, tuple(shown["blank"])), (left, top + LINE))
            said = face["answer"] + ("   (blank)" if face["sample"] < 0 else "")
            pen.text((left, top + LINE + SIDE + 6), said, PALE if face["sample"] < 0 else INK, font)
    target.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(target, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
