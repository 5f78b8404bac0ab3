"""The pictures of the SmolLM2 demo with their captions, out of npm and Debian packages whose sums are checked.

Licences: Noto Apache-2.0, Twemoji CC-BY-4.0, Fluent and emojibase MIT, tuxpaint GPL-2, openclipart public domain, fonts
their own: all of it stays in the cache that git ignores.
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
from typing import NamedTuple

from debian_files import cache, unpacked
from PIL import Image
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
COMMON = 3
"""openclipart titles drawn more often than this are series of icons."""
SERIES = re.compile(
    r"icon|theme|collection|gramastar|button|logo|template|border|frame|symbol|clip ?art|lemon|untitled|mini", re.I
)


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
