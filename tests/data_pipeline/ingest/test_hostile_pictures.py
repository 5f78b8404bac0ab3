"""Files made to do harm: bombs cost no memory, nothing but PictureError comes out, nothing but pictures is opened."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.ingest import ImagesConfig
from data_pipeline.ingest.decode import PictureError, decode, prepare, read_header
from data_pipeline.ingest.header import MOST_SCANS, READABLE
from tests.data_pipeline.conftest import encoded, noise
from tests.data_pipeline.ingest.pictures import bomb, chunk, icc, many_scans, photo

ROOT = Path(__file__).resolve().parents[3]
MOST = 10_000_000
MODES = (
    ImagesConfig(mode="keep-ratio", size=16),
    ImagesConfig(mode="none", format="png"),
    ImagesConfig(mode="border", size=20, format="webp"),
    ImagesConfig(mode="center-crop", size=9, enlarge=True),
)


def real_bomb(width: int, height: int) -> bytes:
    """A PNG that inflates to all of its pixels, 200 times its size."""
    packer, parts = zlib.compressobj(1), []
    line = b"\0" * (1 + 3 * width)
    for _ in range(height):
        parts.append(packer.compress(line))
    body = b"".join(parts) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def huge_headers() -> dict[str, bytes]:
    """The start of pictures of 60,000 x 60,000 pixels and the like, in each format, with little behind it."""
    side = 60_000
    found = {"png": bomb(side, side), "png limit": bomb(2**31 - 1, 2**31 - 1), "png real": real_bomb(10_000, 9_000)}
    found["ppm"] = b"P6 %d %d 255\n" % (side, side) + b"x" * 100
    found["ppm plain"] = b"P3 %d %d 255\n" % (side, side) + b"1 " * 100
    found["gif"] = b"GIF89a" + struct.pack("<HHBBB", side, side, 0xF0, 0, 0) + bytes(6)
    found["gif"] += b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x4c\x01\x00;"
    small = encoded(noise(0), "BMP")
    found["bmp"] = small[:18] + struct.pack("<ii", side, side) + small[26:]
    small = encoded(noise(0), "JPEG")
    place = small.index(b"\xff\xc0")
    found["jpeg"] = small[: place + 5] + struct.pack(">HH", 65_500, 65_500) + small[place + 9 :]
    small = encoded(noise(0), "TIFF")
    for tag in (256, 257):
        place = small.index(struct.pack("<HHI", tag, 4, 1)) if struct.pack("<HHI", tag, 4, 1) in small else -1
        if place < 0:
            place = small.index(struct.pack("<HHI", tag, 3, 1))
        small = small[: place + 2] + struct.pack("<HII", 4, 1, side) + small[place + 12 :]
    found["tiff"] = small
    side3 = struct.pack("<I", 16382)[:3]
    found["webp"] = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + side3 * 2
    small = encoded(noise(0), "AVIF")
    place = small.index(b"ispe")
    found["avif"] = small[: place + 8] + struct.pack(">II", 12_000, 12_000) + small[place + 16 :]
    return found


PROGRAM = """
import json, sys
from configs.ingest import ImagesConfig
from data_pipeline.ingest.decode import PictureError, prepare, read_header

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

config = ImagesConfig()
small = open(sys.argv[1], "rb").read()
prepare(small, config)
for path in sys.argv[2:]:
    data = open(path, "rb").read()
    before, reasons = peak(), []
    for call in (lambda: read_header(data, config.max_pixels), lambda: prepare(data, config)):
        try:
            call()
            reasons.append("taken")
        except PictureError as error:
            reasons.append(error.reason)
    print(json.dumps([path, peak() - before, reasons]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    """Peak RSS of a fresh process grows by less than 50 MB over each; these pictures take 270 and more."""
    files = []
    for name, data in {"aa": encoded(noise(0), "JPEG"), **huge_headers()}.items():
        path = tmp_path / name.replace(" ", "_")
        path.write_bytes(data)
        files.append(str(path))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *files],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seen = {Path(path).name: (grown, reasons) for path, grown, reasons in map(json.loads, done.stdout.splitlines())}
    assert len(seen) == len(files) - 1
    for name, (grown, reasons) in seen.items():
        assert grown < 50, f"{name}: {grown:.0f} MB"
        assert reasons == ["too_many_pixels"] * 2, f"{name}: {reasons}"


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (4000, 4000)])
def test_a_bomb_is_refused_from_its_header(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    for call in (
        lambda d: decode(d, MOST),
        lambda d: read_header(d, MOST),
        lambda d: prepare(d, ImagesConfig(max_pixels=MOST)),
    ):
        with pytest.raises(PictureError) as caught:
            call(bomb(width, height))
        assert caught.value.reason == "too_many_pixels"
    assert decode.__name__ and read_header(bomb(2000, 2000), MOST).width == 2000


@pytest.mark.parametrize("name", [b"iCCP", b"zTXt", b"iTXt"])
def test_texts_and_profiles_that_inflate(name: bytes) -> None:
    """30 chunks of 1 kB that hold 1 MB each, or one of 50 MB: refused before they add up."""
    body = zlib.compress(bytes(2**20 - 100), 9)
    head = {b"iCCP": b"p\0\0", b"zTXt": b"k\0\0", b"iTXt": b"k\0\x01\0\0\0"}[name]
    many = b"".join(chunk(name, head + body) for _ in range(30))
    one = chunk(name, head + zlib.compress(bytes(50 * 2**20), 9))
    for extra in (many, one):
        data = bomb(4, 4, extra)
        assert len(data) < 100_000
        if name == b"iCCP" and extra is many:  # only the last of them is kept
            assert read_header(data, MOST).width == 4
            continue
        with pytest.raises(PictureError) as caught:
            read_header(data, MOST)
        assert caught.value.reason == "not_a_picture"


def test_scans_without_end() -> None:
    with pytest.raises(PictureError) as caught:
        read_header(many_scans(64, 64, MOST_SCANS + 1), MOST)
    assert caught.value.reason == "too_many_scans"
    assert read_header(many_scans(64, 64, 20), MOST).width == 64
    assert read_header(encoded(photo(0, 64, 64), "JPEG", comment=b"\xff\xda" * 600), MOST).width == 64


def test_only_pictures_are_opened() -> None:
    """No interpreter, no container that refers to other files, whatever Pillow could read."""
    assert not {"EPS", "PDF", "WMF", "FITS", "MIC", "IPTC", "PSD", "ICNS"} & set(READABLE)
    tests = [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
        b"%PDF-1.4\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ]
    for kind in ("ICO", "JPEG2000", "TGA", "PCX"):
        sink = io.BytesIO()
        noise(0, 16, 16).save(sink, kind)
        tests.append(sink.getvalue())
    for data in tests:
        with pytest.raises(PictureError) as caught:
            prepare(data, ImagesConfig())
        assert caught.value.reason == "not_a_picture"


def sources() -> dict[str, bytes]:
    picture, profile, exif = (
        photo(1, 40, 30),
        icc(1.8, ((0.6, 0.3, 0), (0.2, 0.6, 0.1), (0.1642, 0.1, 0.7249))),
        Image.Exif(),
    )
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [picture.rotate(90)]}
    return {
        "jpeg": encoded(picture, "JPEG", exif=exif, icc_profile=profile),
        "jpeg progressive": encoded(picture, "JPEG", progressive=True),
        "jpeg cmyk": encoded(picture.convert("CMYK"), "JPEG"),
        "jpeg frames": encoded(picture, "MPO", **frames),
        "png": encoded(picture, "PNG", exif=exif, icc_profile=profile),
        "png palette": encoded(picture.quantize(32), "PNG", transparency=b"\x20\x80"),
        "png 16": encoded(Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)),
        "png frames": encoded(picture, "PNG", **frames),
        "gif": encoded(picture, "GIF", **frames),
        "webp": encoded(picture, "WEBP", exif=exif),
        "webp lossless": encoded(picture.convert("RGBA"), "WEBP", lossless=True, **frames),
        "avif": encoded(picture, "AVIF"),
        "bmp": encoded(picture, "BMP"),
        "tiff": encoded(picture, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encoded(picture, "TIFF", compression="jpeg"),
        "tiff deflate": encoded(picture.convert("RGBA"), "TIFF", compression="tiff_adobe_deflate"),
        "ppm": encoded(picture, "PPM"),
        "ppm plain": b"P3 3 2 255\n" + b" ".join(b"%d" % n for n in range(18)),
    }


SPOILED = 60


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sources())
def test_spoiled_bytes_give_a_picture_or_a_reason(name: str) -> None:
    """Bytes changed, cut out, doubled and appended, with the same seed each time: PictureError and nothing else."""
    data, random = sources()[name], np.random.default_rng(len(name))
    reasons: dict[str, int] = {}
    for number in range(SPOILED):
        spoiled = bytearray(data)
        for _ in range(1 + number % 5):
            place = int(random.integers(0, len(spoiled) if number % 3 else min(len(spoiled), 200)))
            way = int(random.integers(0, 5))
            if way < 2:
                spoiled[place] = int(random.integers(0, 256))
            elif way == 2:
                spoiled[place : place + 4] = b"\xff\xff\xff\xff" if number % 2 else b"\0\0\0\0"
            elif way == 3:
                del spoiled[place : place + int(random.integers(1, 30))]
            else:
                spoiled[place:place] = spoiled[place : place + int(random.integers(1, 30))]
        config = MODES[number % len(MODES)].model_copy(update={"max_pixels": 1_000_000})
        try:
            read_header(bytes(spoiled), config.max_pixels)
            stored = prepare(bytes(spoiled), config, (13, 7) if number % 7 == 0 else None)
            assert stored.pixels.dtype == np.uint8 and stored.pixels.shape[2] == 3
            reasons["picture"] = reasons.get("picture", 0) + 1
        except PictureError as error:
            assert " at 0x" not in str(error), "a detail that differs from process to process"
            reasons[error.reason] = reasons.get(error.reason, 0) + 1
    known = {"picture", "empty", "not_a_picture", "corrupt", "too_many_pixels", "too_many_scans", "memory", "too_long"}
    assert reasons.keys() <= known and len(reasons) > 1, reasons
