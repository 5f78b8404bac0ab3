"""The pictures, captions and questions of the SmolLM2 demo, out of npm and Debian packages whose sums are checked.

    captions.parquet    image, text, split, set     emoji in two drawing styles, tuxpaint stamps, filtered openclipart
    questions.parquet   image, messages, split, set the same pictures asked about, and rendered words

Held out by caption: a tenth of all captions, by a hash of their words, is in no split that is trained on, whatever set
or style draws it. The Fluent style is trained on nowhere: `fluent_seen` are captions that other styles teach,
`fluent_new` captions that nothing does. Licences: Noto Apache-2.0, Twemoji CC-BY-4.0, Fluent and emojibase MIT, tuxpaint
GPL-2, openclipart public domain, fonts their own: all of it stays in the cache that git ignores.
"""

import hashlib
import io
import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from debian_files import cache, unpacked
from PIL import Image, ImageDraw, ImageFont
from real_sets import SOURCES, _openclipart, _tuxpaint, clip_art

NPM = {
    "emojibase-data": ("17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"),
    "@iconify-json/noto": ("1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "@iconify-json/twemoji": ("1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    "@lobehub/fluent-emoji-3d": ("1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"),
}
TRAIN_FONTS = ("fonts-dejavu-core", "fonts-dejavu-extra", "fonts-freefont-ttf")
TEST_FONTS = ("fonts-liberation",)
DEBIAN = ("openclipart-png", "openclipart-svg", "tuxpaint-stamps-default", *TRAIN_FONTS, *TEST_FONTS)
SIDE = 192
HELD_OUT, NEW_WORDS = 0.1, 0.15
SEED = 0
PARTS = (64, 16, 4)
ASKED, FACES = 200, 8
"""Pictures of a test that are asked about; typefaces in which a word is trained on."""
COMMON = 3
"""openclipart titles drawn more often than this are series of icons."""
SERIES = re.compile(
    r"icon|theme|collection|gramastar|button|logo|template|border|frame|symbol|clip ?art|lemon|untitled|mini", re.I
)
QUESTIONS = ("What is it?", "What does the picture show?", "What is this?")
READ = "What does the text say?"


Row = dict[str, Any]


class Drawn(NamedTuple):
    """A picture with its caption."""

    picture: Image.Image
    text: str
    set: str


def home() -> Path:
    folder = cache() / "smollm2"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# ---- fetching ----------------------------------------------------------------------------------------------------


def npm(name: str) -> Path:
    """The unpacked npm package; downloads it the first time. Ends the program where npm is missing or the sum differs."""
    version, sha256 = NPM[name]
    root = cache() / "npm" / f"{name.replace('/', '-').lstrip('@')}-{version}"
    if root.is_dir():
        return root / "package"
    if shutil.which("npm") is None:
        sys.exit(f"{name} comes from npm, which is not here: install Node.js")
    work = root.with_name(f".{root.name}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    done = subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=work, capture_output=True, text=True)
    packed = list(work.glob("*.tgz"))
    if done.returncode or len(packed) != 1:
        sys.exit(f"npm pack {name}@{version} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    found = hashlib.sha256(packed[0].read_bytes()).hexdigest()
    if found != sha256:
        sys.exit(f"{packed[0].name} has sha256 {found}, not {sha256}")
    shutil.unpack_archive(packed[0], work, filter="data")
    packed[0].unlink()
    work.rename(root)
    return root / "package"


def fetch() -> None:
    for name in NPM:
        print(f"   {name}: {npm(name)}", flush=True)
    for name in DEBIAN:
        print(f"   {name}: {unpacked(name)}", flush=True)


# ---- pictures ----------------------------------------------------------------------------------------------------


def reduced(picture: Image.Image) -> Image.Image:
    """With alpha, and at most twice as large as it will be shown."""
    picture = picture.convert("RGBA")
    picture.thumbnail((2 * SIDE, 2 * SIDE), Image.Resampling.BOX)
    return picture


def on_white(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """The picture centred on a white square of `side` pixels, 6 % of margin."""
    picture = picture.convert("RGBA")
    room = round(side * 0.94)
    scale = room / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(picture, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square.convert("RGB")


def varied(picture: Image.Image, rng: random.Random, mirror: bool) -> Image.Image:
    """A second look at a cut-out: turned, smaller, mirrored, on another ground, in other colours."""
    picture = picture.convert("RGBA")
    if mirror and rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
    alpha = picture.getchannel("A")
    hue, saturation, value = picture.convert("RGB").convert("HSV").split()
    turn, rich, light = rng.randint(-10, 10), rng.uniform(0.6, 1.2), rng.uniform(0.75, 1.15)
    bands = (
        hue.point([(level + turn) % 256 for level in range(256)]),
        saturation.point([min(255, round(level * rich)) for level in range(256)]),
        value.point([min(255, round(level * light)) for level in range(256)]),
    )
    picture = Image.merge("HSV", bands).convert("RGB").convert("RGBA")
    picture.putalpha(alpha)
    scale = rng.uniform(0.65, 1.0) * SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    ground = Image.new("RGBA", (SIDE, SIDE), tuple(rng.randint(190, 255) for _ in range(3)))
    ground.alpha_composite(picture, (rng.randint(0, SIDE - size[0]), rng.randint(0, SIDE - size[1])))
    return ground.convert("RGB")


def emoji_entries() -> dict[str, str]:
    """hexcode -> caption; without flags of places and keycaps, whose names no drawing tells."""
    entries = json.loads((npm("emojibase-data") / "en" / "data.json").read_bytes())
    named = {entry["hexcode"].replace("-FE0F", ""): entry["label"] for entry in entries}
    return {code: label for code, label in named.items() if not label.startswith(("flag: ", "keycap: ", "regional"))}


def iconified(name: str, entries: dict[str, str]) -> Iterator[Drawn]:
    """An iconify set of SVG drawings, rendered."""
    import resvg_py

    folder = npm(f"@iconify-json/{name}")
    icons = json.loads((folder / "icons.json").read_bytes())
    chars = json.loads((folder / "chars.json").read_bytes())
    by_code = {code.upper().replace("-FE0F", ""): icon for code, icon in chars.items()}
    for code, label in sorted(entries.items()):
        icon = icons["icons"].get(by_code.get(code, ""))
        if icon is None:
            continue
        wide, high = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
        body = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {wide} {high}">{icon["body"]}</svg>'
        made = resvg_py.svg_to_bytes(svg_string=body, width=SIDE, skip_system_fonts=True)
        yield Drawn(Image.open(io.BytesIO(bytes(made))).convert("RGBA"), label, name)


def fluent(entries: dict[str, str]) -> Iterator[Drawn]:
    for path in sorted((npm("@lobehub/fluent-emoji-3d") / "assets").glob("*.webp")):
        label = entries.get(path.stem.upper().replace("-FE0F", ""))
        if label is not None:
            yield Drawn(Image.open(path).convert("RGBA"), label, "fluent")


def stamps() -> Iterator[Drawn]:
    folder = SOURCES / "tuxpaint"
    if not folder.is_dir():
        SOURCES.mkdir(parents=True, exist_ok=True)
        _tuxpaint(folder)
    for path in sorted(folder.rglob("*.png")):
        text = path.with_suffix(".txt")
        caption = plain(text.read_text("utf-8").splitlines()[0]) if text.exists() else ""
        if 3 <= len(caption) <= 40 and "alphabet" not in path.parts:
            with Image.open(path) as picture:
                yield Drawn(reduced(picture), caption, "tuxpaint")


def clip_arts() -> Iterator[Drawn]:
    """openclipart without series of icons, titles of one to five words, and pictures that are links to others."""
    table = SOURCES / "openclipart.jsonl"
    if not table.is_file():
        SOURCES.mkdir(parents=True, exist_ok=True)
        _openclipart(table)
    rows = [json.loads(line) for line in table.read_text("utf-8").splitlines()]
    titles = [row["text"].partition(" | ")[0] for row in rows]
    often = Counter(re.sub(r"[\W\d_]+", " ", title).strip().lower() for title in titles)
    for row, title in zip(rows, titles, strict=True):
        path, caption = clip_art() / row["image"], plain(title)
        words = caption.split()
        known = often[re.sub(r"[\W\d_]+", " ", title).strip().lower()] <= COMMON
        if path.is_symlink() or not known or SERIES.search(title) or not 1 <= len(words) <= 5 or len(caption) < 3:
            continue
        try:
            with Image.open(path) as picture:
                if picture.width * picture.height < 4_000_000:
                    yield Drawn(reduced(picture), caption, "openclipart")
        except (OSError, Image.DecompressionBombError, Image.DecompressionBombWarning):
            continue


def plain(title: str) -> str:
    """The first sentence of a text, lower case, without article, brackets, digits and punctuation.

    >>> plain("A hoverfly. It resembles a bee.")
    'hoverfly'
    >>> plain("Ice_Cream Cone (1 scoop)")
    'ice cream cone'
    """
    first = re.split(r"[.!?|;(\[]", re.sub(r"[_]+", " ", title), maxsplit=1)[0]
    words = re.sub(r"[^\w' -]|\d+", " ", first).lower().split()
    return " ".join(words[1:] if words[:1] and words[0] in ("a", "an", "the", "this") else words).strip(" -")


def drawings() -> Iterator[Drawn]:
    """All pictures with captions, every set and style."""
    entries = emoji_entries()
    yield from iconified("noto", entries)
    yield from iconified("twemoji", entries)
    yield from stamps()
    yield from clip_arts()
    yield from fluent(entries)


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


if __name__ == "__main__":
    fetch()
    prepare()
