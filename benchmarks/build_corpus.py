"""Photo crops to measure a data build on, and the table of URLs that lead to them.

    python benchmarks/build_corpus.py                 make both corpora and say what they are
    python benchmarks/build_corpus.py --rows 1000 --out rows.parquet --base http://127.0.0.1:8080/mixed

`mixed`: 400 JPEGs, long side 400-1024, short side 300 at least, six aspect ratios, q80-95, one in ten 4:4:4 and the rest
4:2:0, 15 % progressive, about 90 KB each. `large`: 40 of 2048x1536, the same otherwise. Crops of the photographs that come
inside scikit-image (`pip install scikit-image`) and two Debian packages, so they stand for web photos in size and
sharpness, not in variety. Seeded: the same Pillow makes the same bytes, and the digest that is printed says so.
"""

import argparse
import functools
import hashlib
import importlib.util
import io
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from debian_files import cache, unpacked
from PIL import Image

VERSION = 1  # of the recipe below: part of the folder's name
SEED = 20261
RATIOS = ((4, 3), (3, 2), (1, 1), (16, 9), (3, 4), (2, 3))
SKIMAGE = "astronaut.png camera.png coffee.png coins.png chelsea.png gravel.png grass.png ihc.png motorcycle_left.png"
SKIMAGE += " hubble_deep_field.jpg rocket.jpg"
TEMPLATES = "burnt_bark cliff corn_maze jellyfish lighthouse mossy_bark mossy_log mudstone ocean_splash ocean_waves redwoods_above"
TEMPLATES += " rocks sheep sun_behind_clouds trees_above trees_at_dusk wool_mill_machine"  # .jpg, of tuxpaint-data
WALLPAPERS = (
    "aitzgorri_by_Aitzol_Berasategi friends_by_Aitzol_Berasategi life_by_Aitzol_Berasategi Wine_by_Jakkub_Mede "
    "picosdeeuropa_by_Aitzol_Berasategi analogpattern_by_Peter_Nerlich seeding_by_Clements_Engelhardt "
    "sunset_by_Aitzol_Berasategi Picture_0B_by_freespace Picture_1A_by_freespace Dragonfly_by_Bolly Bridge_by_Sander_Klootwijk "
    "greentock_by_Peter_Nerlich"
)  # .jpg, of lomiri-wallpapers-16.04
LARGEST = 3.0  # a source may be shrunk to a crop by this much, and enlarged by a quarter: photos are about this sharp


class Corpus(NamedTuple):
    name: str
    folder: Path
    files: tuple[str, ...]  # names in `folder`
    bytes: int
    digest: str  # of all names and bytes


def mixed(count: int = 400) -> Corpus:
    """The corpus of web-sized photo crops; made the first time (half a minute)."""
    return _corpus("mixed", count, None)


def large(count: int = 40) -> Corpus:
    return _corpus("large", count, (2048, 1536))


def write_rows(corpus: Corpus, base: str, rows: int, path: Path) -> list[str]:
    """Write a parquet table (url, caption) of `rows` rows at `path`; the corpus' file behind each row is returned.

    Each file comes about equally often, in a seeded order, under another query string each time, so that neither side
    can keep an answer.
    """
    rng = np.random.default_rng([SEED, rows])
    passes = [rng.permutation(len(corpus.files)) for _ in range(-(-rows // len(corpus.files)))]
    files = [corpus.files[i] for i in np.concatenate(passes)[:rows]]
    urls = [f"{base}/{file}?n={row}" for row, file in enumerate(files)]
    captions = [f"Photo crop {file.removesuffix('.jpg')}, row {row}." for row, file in enumerate(files)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"url": urls, "caption": captions}), path)
    return files


def _corpus(name: str, count: int, size: tuple[int, int] | None) -> Corpus:
    folder = cache() / f"photo_crops_{VERSION}_{count}" / name
    if not folder.is_dir():
        work = folder.with_name(f".{name}")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        for index in range(count):
            (work / f"{index:04d}.jpg").write_bytes(_crop(index, size))
        work.rename(folder)
    files = tuple(sorted(path.name for path in folder.iterdir()))
    digest, total = hashlib.sha256(), 0
    for file in files:
        data = (folder / file).read_bytes()
        digest.update(file.encode() + hashlib.sha256(data).digest())
        total += len(data)
    return Corpus(name, folder, files, total, digest.hexdigest()[:16])


def _crop(index: int, size: tuple[int, int] | None) -> bytes:
    """JPEG number `index`; its size is drawn where `size` (width, height) is none."""
    rng = np.random.default_rng([SEED, index, 0 if size is None else 1])
    width, height = size or _draw_size(rng)
    photo = _photo(_draw_source(rng, width, height))
    fit = min(photo.width / width, photo.height / height)
    scale = rng.uniform(min(0.8, fit), min(fit, LARGEST))
    across, down = round(width * scale), round(height * scale)
    left, top = (int(rng.integers(0, max(1, room))) for room in (photo.width - across, photo.height - down))
    crop = photo.resize((width, height), Image.Resampling.BICUBIC, (left, top, left + across, top + down))
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    out = io.BytesIO()
    crop.save(
        out,
        "JPEG",
        quality=int(rng.integers(80, 96)),
        subsampling="4:4:4" if rng.random() < 0.1 else "4:2:0",
        progressive=bool(rng.random() < 0.15),
    )
    return out.getvalue()


def _draw_size(rng: np.random.Generator) -> tuple[int, int]:
    across, down = RATIOS[rng.integers(len(RATIOS))]
    longest = max(across, down)
    least = max(400, 300 * longest / min(across, down))
    side = rng.uniform(least, 1024)
    return round(side * across / longest), round(side * down / longest)


def _draw_source(rng: np.random.Generator, width: int, height: int) -> Path:
    """One of the photographs that need not be enlarged by more than a quarter."""
    fitting = [path for path in _sources() if min(_photo(path).width / width, _photo(path).height / height) >= 0.8]
    return fitting[rng.integers(len(fitting))]


@functools.cache
def _sources() -> tuple[Path, ...]:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        sys.exit("the photo crops need scikit-image's pictures: pip install scikit-image")
    paths = [Path(spec.origin).parent / "data" / name for name in SKIMAGE.split()]
    templates = unpacked("tuxpaint-data") / "usr/share/tuxpaint/templates"
    paths += [templates / f"{name}.jpg" for name in TEMPLATES.split()]
    wallpapers = unpacked("lomiri-wallpapers-16.04") / "usr/share/backgrounds"
    paths += [wallpapers / f"{name}.jpg" for name in WALLPAPERS.split()]
    return tuple(paths)


@functools.cache
def _photo(path: Path) -> Image.Image:
    with Image.open(path) as photo:
        return photo.convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--out", type=Path, default=cache() / "rows.parquet")
    parser.add_argument("--base", default="http://127.0.0.1:8080/mixed")
    args = parser.parse_args()
    for corpus in (mixed(), large()):
        mean = corpus.bytes / len(corpus.files) / 1000
        print(f"{corpus.name}: {len(corpus.files)} files, mean {mean:.0f} KB, digest {corpus.digest}, {corpus.folder}")
    if args.rows:
        write_rows(mixed(), args.base, args.rows, args.out)
        print(f"{args.rows} rows: {args.out}")


if __name__ == "__main__":
    main()
