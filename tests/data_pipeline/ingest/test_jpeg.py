"""The quick way through a JPEG gives what the long one gives, to 37 dB, and leaves what it cannot judge to Pillow."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.ingest import ImagesConfig
from data_pipeline.ingest import jpeg
from data_pipeline.ingest.decode import decode, pixels_of
from data_pipeline.ingest.resize import scale_to, target
from tests.data_pipeline.conftest import encoded, noise
from tests.data_pipeline.ingest.pictures import photo, psnr

LEAST = 37.0
ROOT = Path(__file__).resolve().parents[3]


def area(data: bytes, size: int) -> np.ndarray:
    """Full decoding by Pillow, then area averaging."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return scale_to(np.asarray(picture), target(picture.size, "keep-ratio", size, False, 65500))


@pytest.mark.parametrize("quality", [60, 85, 95])
@pytest.mark.parametrize("roughness", [1.0, 1.2, 1.6])
def test_resized_photographs(quality: int, roughness: float) -> None:
    """From 1.05 to 20 times smaller, odd sizes too; roughness 1.0 is foliage, 1.6 a misty sky."""
    config = ImagesConfig(mode="keep-ratio", size=48)
    ways = set()
    for number, width in enumerate((51, 68, 83, 97, 101, 127, 151, 203, 301, 433, 977)):
        subsampling = number % 3
        data = encoded(
            photo(number, width, width * 3 // 4 + 13, roughness), "JPEG", quality=quality, subsampling=subsampling
        )
        shape = Image.open(io.BytesIO(data)).size
        got, wanted = pixels_of(data, config), area(data, 48)
        assert got.shape == wanted.shape
        assert psnr(got, wanted) >= LEAST, f"{shape}, {psnr(got, wanted):.1f} dB"
        table = Image.open(io.BytesIO(data)).quantization[0]
        ways.add(jpeg.plan(shape, target(shape, "keep-ratio", 48, False, 65500), jpeg.detail(data, shape, table)))
    assert len(ways) > 3, "one way for all: what is tested?"


def test_real_photographs() -> None:
    data_folder = Path(pytest.importorskip("skimage").__file__).parent / "data"
    names = (
        "astronaut.png",
        "brick.png",
        "coffee.png",
        "chelsea.png",
        "grass.png",
        "rocket.jpg",
        "motorcycle_left.png",
    )
    there = [name for name in names if (data_folder / name).exists()]
    assert len(there) >= 3
    random = np.random.default_rng(0)
    for name in there:
        whole = Image.open(data_folder / name).convert("RGB")
        for quality in (75, 90, 95):
            left, top = random.integers(0, 40, 2)
            data = encoded(whole.crop((left, top, *whole.size)), "JPEG", quality=quality)
            for size in (97, 128, 200, 256):
                got, wanted = pixels_of(data, ImagesConfig(size=size)), area(data, size)
                assert psnr(got, wanted) >= LEAST, f"{name} {quality} to {size}: {psnr(got, wanted):.1f} dB"


def test_half_a_column_moves_nothing() -> None:
    """977 columns scaled by a quarter are 244.25: OpenCV takes 245 for the whole width and shifts by a third (30 dB)."""
    data = encoded(photo(1, 977, 977, 1.6), "JPEG", quality=80)
    wanted = area(data, 200)
    got = jpeg.read(data, (977, 977), Image.open(io.BytesIO(data)).quantization[0], (200, 200), False)
    assert jpeg.plan((977, 977), (200, 200), 1.0).eighths == 2
    assert got is not None and psnr(got, wanted) >= 45


def test_detail_decides_how() -> None:
    table = [4] * 64
    smooth, rough = jpeg.detail(b"x" * 1000, (100, 100), table), jpeg.detail(b"x" * 5000, (100, 100), table)
    assert (smooth, rough) == (1.6, 8.0) and jpeg.detail(b"x", (1, 1), None) == float("inf")
    half = jpeg.plan((300, 300), (100, 100), smooth)
    assert half.eighths == 4 and not half.twice and half.limit < float("inf")
    assert jpeg.plan((250, 250), (100, 100), rough) == jpeg.Plan(8, True)
    assert jpeg.plan((150, 150), (100, 100), rough) == jpeg.Plan(8, False)
    assert jpeg.plan((190, 190), (100, 100), rough) == jpeg.Plan(8, True)
    assert jpeg.plan((5000, 5000), (100, 100), rough).eighths == 1
    assert jpeg.plan((90, 90), (100, 100), rough).eighths == 8


def test_what_turns_out_rough_is_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A regular pattern takes few bits, so that the header promises a smooth picture."""
    stripes = np.full((300, 300, 3), 90, np.uint8)
    stripes[:, np.arange(300) % 6 < 3] = 180
    data = encoded(Image.fromarray(stripes), "JPEG", quality=90)
    table = Image.open(io.BytesIO(data)).quantization[0]
    assert jpeg.plan((300, 300), (110, 110), jpeg.detail(data, (300, 300), table)).eighths == 4
    got = jpeg.read(data, (300, 300), table, (110, 110), False)
    assert got is not None and psnr(got, area(data, 110)) >= LEAST
    monkeypatch.setattr(jpeg, "roughness", lambda pixels: 0.0)
    careless = jpeg.read(data, (300, 300), table, (110, 110), False)
    assert careless is not None and psnr(careless, area(data, 110)) < LEAST - 5
    assert jpeg.roughness(np.zeros((1, 1, 3), np.uint8)) == 0


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"optimize": True}]
)
def test_full_decoding_is_pillows(mode: str, options: dict) -> None:
    data = encoded(photo(2, 75, 53).convert(mode), "JPEG", **options)
    wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    got = jpeg.decode(data, (75, 53))
    assert got is not None and np.array_equal(got, wanted)


def test_what_is_left_to_pillow() -> None:
    good = encoded(noise(0, 40, 30), "JPEG")
    assert jpeg.decode(encoded(noise(0, 40, 30).convert("CMYK"), "JPEG"), (40, 30)) is None
    assert jpeg.decode(good[:-2], (40, 30)) is None and jpeg.decode(b"x", (40, 30)) is None
    assert jpeg.decode(good, (41, 30)) is None, "two readings of one header: a way around the size gate"
    odd = good[:20] + b"\0\0" + good[20:]
    assert jpeg.decode(odd, (40, 30)) is None and decode(odd, 10**6).size == (40, 30)


PROGRAM = """
import hashlib, sys
from configs.ingest import ImagesConfig
from data_pipeline.ingest.decode import prepare
found = hashlib.sha256()
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    for size in (40, 57, 64, 90, 133):
        for mode in ("keep-ratio", "center-crop", "border"):
            found.update(prepare(data, ImagesConfig(mode=mode, size=size)).data)
print(found.hexdigest())
"""


def test_the_same_bytes_without_this_machines_instructions(tmp_path: Path) -> None:
    """libjpeg-turbo in plain C, OpenCV without AVX and IPP: what other machines have."""
    for number in range(6):
        size = (140 + 31 * number, 160 + 17 * number)
        (tmp_path / f"{number}.jpg").write_bytes(encoded(photo(number, *size), "JPEG", subsampling=number % 3))
        (tmp_path / f"{number}.png").write_bytes(encoded(photo(number, *size), "PNG"))
    plain = {
        "JSIMD_FORCENONE": "1",
        "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FP16,AVX,SSE4.2,SSE4.1",
        "OPENCV_IPP": "disabled",
    }
    seen = set()
    for extra in ({}, plain):
        files = sorted(str(path) for path in tmp_path.iterdir())
        environment = {**os.environ, **extra, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *files],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        seen.add(done.stdout.strip())
    assert len(seen) == 1
