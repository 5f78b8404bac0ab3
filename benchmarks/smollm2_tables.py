"""The tables of the SmolLM2 demo: captions and questions about its pictures, and what is held out of training.

    captions.parquet    image, text, split, set     emoji in two drawing styles, tuxpaint stamps, filtered openclipart
    questions.parquet   image, messages, split, set the same pictures asked about, and rendered words

Held out by caption: a tenth of all captions, by a hash of their words, is in no split that is trained on, whatever set
or style draws it. The Fluent style is trained on nowhere: `fluent_seen` are captions that other styles teach,
`fluent_new` captions that nothing does.
"""

import hashlib
import io
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from debian_files import unpacked
from PIL import Image, ImageDraw, ImageFont
from smollm2_data import SIDE, TEST_FONTS, TRAIN_FONTS, Drawn, drawings, home, on_white, varied

HELD_OUT, NEW_WORDS = 0.1, 0.15
SEED = 0
PARTS = (64, 16, 4)
ASKED, FACES = 200, 8
"""Pictures of a test that are asked about; typefaces in which a word is trained on."""
QUESTIONS = ("What is it?", "What does the picture show?", "What is this?")
READ = "What does the text say?"


Row = dict[str, Any]


# ---- splits ------------------------------------------------------------------------------------------------------


def share(text: str) -> float:
    """A number in [0, 1) that hangs on the words of a text alone, whatever their order and case."""
    words = " ".join(sorted(re.findall(r"[a-z]+", text.lower())))
    return int(hashlib.sha256(words.encode()).hexdigest()[:8], 16) / 2**32


def split_of(drawn: Drawn) -> str:
    new = share(drawn.text) < HELD_OUT
    if drawn.set == "fluent":
        return "fluent_new" if new else "fluent_seen"
    return "heldout" if new else "train"


# ---- rendered words ----------------------------------------------------------------------------------------------


def fonts(packages: tuple[str, ...]) -> list[Path]:
    """Upright faces with Latin letters."""
    found = [path for name in packages for path in sorted((unpacked(name) / "usr/share/fonts").rglob("*.ttf"))]
    return [path for path in found if not re.search("Oblique|Italic|Math|ExtraLight|Narrow", path.name)]


def vocabulary(captions: list[str]) -> list[str]:
    """Words of three to six letters that captions use, most used first."""
    counts = Counter(word for caption in captions for word in re.findall(r"[a-z]+", caption.lower()))
    return sorted((word for word in counts if 3 <= len(word) <= 6), key=lambda word: (-counts[word], word))[:400]


def written(word: str, face: Path, rng: random.Random) -> Image.Image:
    """A word in dark on light, as wide as fits: SIDE pixels across, a third of that high."""
    high = SIDE // 3
    ground = tuple(rng.randint(215, 255) for _ in range(3))
    picture = Image.new("RGB", (SIDE, high), ground)
    draw = ImageDraw.Draw(picture)
    size = 56
    while True:
        font = ImageFont.truetype(str(face), size)
        left, top, right, bottom = draw.textbbox((0, 0), word, font=font)
        if right - left <= SIDE - 12 and bottom - top <= high - 8:
            break
        size -= 2
    ink = tuple(rng.randint(0, 90) for _ in range(3))
    place = ((SIDE - right + left) // 2 - left, (high - bottom + top) // 2 - top)
    draw.text(place, word, ink, font)
    return picture


def readings(captions: list[str]) -> Iterator[tuple[Image.Image, str, str]]:
    """(picture, word, split): known words in known fonts, and two tests: an unknown font, and unknown words in known fonts."""
    rng = random.Random(SEED)
    known, other = fonts(TRAIN_FONTS), fonts(TEST_FONTS)
    for word in vocabulary(captions):
        new = share(f"{word} written") < NEW_WORDS
        for face in rng.sample(known, 1 if new else FACES):
            yield written(word, face, rng), word, "read_new_word" if new else "train"
        if not new and rng.random() < 0.5:
            yield written(word, rng.choice(other), rng), word, "read_new_font"


# ---- tables ------------------------------------------------------------------------------------------------------


def encoded(picture: Image.Image, name: str) -> dict[str, Any]:
    sink = io.BytesIO()
    picture.save(sink, "PNG", compress_level=1)
    return {"bytes": sink.getvalue(), "path": f"{name}.png"}


def prepare() -> None:
    """Write both tables, and print what is in them."""
    captions = list(captioned(random.Random(SEED)))
    rng = random.Random(SEED + 1)
    by_split: dict[str, list[Row]] = {}
    for row in captions:
        if not row["image"]["path"].endswith("varied.png"):
            by_split.setdefault(row["split"], []).append(row)
    asked: list[Row] = []
    for split, rows in by_split.items():
        chosen = rows if split == "train" else rng.sample(rows, min(ASKED, len(rows)))
        asked += questions(chosen, rng, split == "train")
    words = [row["text"] for row in by_split["train"]]
    for number, (picture, word, split) in enumerate(readings(words)):
        image = encoded(picture, f"word{number}")
        asked.append({"image": image, "messages": turn(READ, word), "split": split, "set": "words"})
    rng.shuffle(captions)
    rng.shuffle(asked)
    said = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    write("captions", captions, ("text", pa.string()))
    write("questions", asked, ("messages", said))


def captioned(rng: random.Random) -> Iterator[Row]:
    """Each distinct picture on white; those of the training split once more, varied."""
    seen = set()
    for number, drawn in enumerate(drawings()):
        split, image = split_of(drawn), encoded(on_white(drawn.picture), str(number))
        digest = hashlib.sha256(image["bytes"]).hexdigest()
        if digest in seen:
            continue
        seen.add(digest)
        yield {"image": image, "text": drawn.text, "split": split, "set": drawn.set}
        if split == "train":
            again = varied(drawn.picture, rng, not re.search("left|right|clock", drawn.text))
            yield {"image": encoded(again, f"{number}-varied"), "text": drawn.text, "split": split, "set": drawn.set}


def write(name: str, rows: list[Row], column: tuple[str, pa.DataType]) -> None:
    """A table; of its training rows (shuffled) each nth is marked for the curve of score against data."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    marks = [f"one_in_{part}" for part in PARTS]
    names = [("split", pa.string()), ("set", pa.string()), *((mark, pa.string()) for mark in marks)]
    schema = pa.schema([("image", image), column, *names])
    for number, row in enumerate(row for row in rows if row["split"] == "train"):
        row |= {f"one_in_{part}": "yes" for part in PARTS if number % part == 0}
    pq.write_table(pa.Table.from_pylist(rows, schema), home() / f"{name}.parquet", row_group_size=256)
    counts = Counter((row["split"], row["set"]) for row in rows)
    listed = ", ".join(f"{split}/{kind} {count}" for (split, kind), count in sorted(counts.items()))
    print(f"   {name}: {listed}", flush=True)


def turn(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": answer}]


def questions(rows: list[Row], rng: random.Random, train: bool) -> Iterator[Row]:
    """What is it (one wording), and this or that: of two pictures of one pair each is asked the same question."""
    order = list(range(len(rows)))
    rng.shuffle(order)
    for first, second in zip(order[::2], order[1::2], strict=False):
        pair = [rows[first], rows[second]]
        if pair[0]["text"] == pair[1]["text"]:
            continue
        either = [row["text"] for row in rng.sample(pair, 2)]
        choice = f"Is this {either[0]} or {either[1]}?"
        for row in pair:
            common = {"image": row["image"], "split": row["split"], "set": row["set"]}
            open_question = rng.choice(QUESTIONS) if train else QUESTIONS[0]
            yield {**common, "messages": turn(open_question, row["text"])}
            yield {**common, "messages": turn(choice, row["text"])}
