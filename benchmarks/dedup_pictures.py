"""Pictures to measure perceptual dedup on: sets of different pictures, and edits that make copies of them.

`photos`: 5,000 crops of 41 photographs, 0.25-1 of their side, each less than half in common with any other of the set (for
which 67,000 boxes are drawn: the more there are, the fewer fit).
`clip_art`: openclipart without its star polygons and without pictures whose pixels are equal to another's; `stars`: these
polygons, 1,494 drawings of thin lines that differ in the number of points. `stamps`: tuxpaint's. `manual`: screenshots
and figures of the GIMP manual. `emoji`: the 1,854 of the demo. `shapes`: the 5,000 of easy-VQA, 64 x 64.
"""

import importlib.util
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from build_corpus import SKIMAGE, TEMPLATES, WALLPAPERS
from debian_files import unpacked
from PIL import Image

from data_pipeline.ingest.resize import opencv

STORED = 256
"""Shortest side of a stored picture; smaller ones stay as they are."""

SEEN, WHOLE_DB, BLOCK_DB = 128, 35, 26
"""Two files show one picture if, both at SEEN x SEEN, they agree to WHOLE_DB (PSNR), and every 8 x 8 block to BLOCK_DB."""

ROOT = Path(__file__).resolve().parents[1]
Named = Iterator[tuple[str, Image.Image]]


def stored(picture: Image.Image) -> np.ndarray:
    """What a build with `mode: keep-ratio, size: 256` hashes: uint8 [height, width, 3]."""
    return np.asarray(_scaled(picture, min(1.0, STORED / min(picture.size)), Image.Resampling.BOX))


def seen(pixels: np.ndarray) -> np.ndarray:
    """uint8 [height, width, 3] -> [SEEN, SEEN, 3], what `one_picture` looks at: no hash has a part in it."""
    return opencv().resize(pixels, (SEEN, SEEN), interpolation=opencv().INTER_AREA)


def one_picture(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures, as `seen`, are the same but for their encoding or details too faint to see."""
    square = ((one.astype(np.float64) - other) ** 2).mean(axis=2)
    worst = square.reshape(SEEN // 8, 8, SEEN // 8, 8).mean(axis=(1, 3)).max()
    return all(error <= 255**2 / 10 ** (limit / 10) for error, limit in ((square.mean(), WHOLE_DB), (worst, BLOCK_DB)))


def edits(picture: Image.Image) -> dict[str, Image.Image]:
    """Copies of a picture: resized (never below 64 pixels), encoded again, or both."""
    least = min(1.0, 64 / min(picture.size))
    half, quarter = (_scaled(picture, max(factor, least), Image.Resampling.LANCZOS) for factor in (0.5, 0.25))
    return {
        "0.5x": half,
        "0.25x": quarter,
        "1.5x": _scaled(picture, 1.5, Image.Resampling.BICUBIC),
        "to 256": _scaled(picture, min(1.0, STORED / min(picture.size)), Image.Resampling.LANCZOS),
        "JPEG q50": _encoded(picture, "JPEG", 50),
        "0.5x, q50": _encoded(half, "JPEG", 50),
        "0.25x, q50": _encoded(quarter, "JPEG", 50),
        "WebP q60": _encoded(picture, "WEBP", 60),
    }


def _scaled(picture: Image.Image, factor: float, kernel: Image.Resampling) -> Image.Image:
    size = tuple(max(1, round(side * factor)) for side in picture.size)
    return picture if size == picture.size else picture.resize(size, kernel)


def _encoded(picture: Image.Image, kind: str, quality: int) -> Image.Image:
    sink = io.BytesIO()
    picture.save(sink, kind, quality=quality)
    return Image.open(sink).convert("RGB")


def _opened(source: Path | io.BytesIO) -> Image.Image:
    """RGB on white."""
    picture = Image.open(source)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        ground.alpha_composite(picture)
        picture = ground
    return picture.convert("RGB")


def _files(paths: list[Path], longest: int = 1024) -> Named:
    """Pictures that can be opened, at least 32 and at most `longest` pixels along a side."""
    for path in paths:
        try:
            picture = _opened(path)
        except (OSError, Image.DecompressionBombError):
            continue
        picture.thumbnail((longest, longest), Image.Resampling.BOX)
        if min(picture.size) >= 32:
            yield str(path), picture


def _clip_art(stars: bool) -> Named:
    paths = sorted(path for path in unpacked("openclipart-png").rglob("*.png") if not path.is_symlink())
    seen: set[bytes] = set()
    for name, picture in _files([path for path in paths if path.name.startswith("star_") == stars]):
        pixels = stored(picture).tobytes()
        if pixels not in seen:
            seen.add(pixels)
            yield name, picture


def _below(package: str, *endings: str) -> Named:
    root = unpacked(package)
    return _files(sorted(path for path in root.rglob("*") if path.suffix in endings and not path.is_symlink()))


def _emoji() -> Named:
    table = pq.read_table(ROOT / "data_pipeline/assets/fluent_emoji.parquet")
    for image, label in zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True):
        yield label, _opened(io.BytesIO(image["bytes"]))


def _shapes() -> Named:
    spec = importlib.util.find_spec("easy_vqa")
    assert spec is not None and spec.origin is not None
    return _files(sorted(Path(spec.origin).parent.glob("data/*/images/*.png")))


def _photographs() -> list[Path]:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None and spec.origin is not None
    paths = [Path(spec.origin).parent / "data" / name for name in SKIMAGE.split()]
    for package, names in (("tuxpaint-data", TEMPLATES), ("lomiri-wallpapers-16.04", WALLPAPERS)):
        paths += [next(unpacked(package).rglob(f"{name}.jpg")) for name in names.split()]
    return paths


def _photos(count: int = 5_000) -> Named:
    random = np.random.default_rng(5)
    photographs = list(_files(_photographs(), 2048))
    taken: dict[str, list[tuple[int, int, int, int]]] = {}
    made = 0
    while made < count:
        name, photo = photographs[random.integers(len(photographs))]
        ratio = random.choice([1, 4 / 3, 3 / 4, 3 / 2, 2 / 3])
        width = min(photo.width, photo.height * ratio) * random.uniform(0.25, 1)
        height = width / ratio
        left, top = random.uniform(0, photo.width - width), random.uniform(0, photo.height - height)
        box = (round(left), round(top), round(left + width), round(top + height))
        if min(width, height) < 64 or any(_in_common(box, other) >= 0.5 for other in taken.get(name, ())):
            continue
        taken.setdefault(name, []).append(box)
        made += 1
        crop = photo.crop(box)
        crop.thumbnail((1024, 1024), Image.Resampling.BOX)
        yield f"{name} {box}", crop


def _in_common(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Area that two boxes share, as a part of what they cover."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0, width) * max(0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


SETS: dict[str, Callable[[], Named]] = {
    "photos": _photos,
    "clip_art": lambda: _clip_art(False),
    "stars": lambda: _clip_art(True),
    "stamps": lambda: _below("tuxpaint-stamps-default", ".png"),
    "manual": lambda: _below("gimp-help-en", ".png", ".jpg"),
    "emoji": _emoji,
    "shapes": _shapes,
}
