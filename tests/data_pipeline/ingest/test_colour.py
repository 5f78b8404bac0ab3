"""Colours against references computed here, in floating point: at most 2 of 255 apart."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from configs.ingest import ImagesConfig
from data_pipeline.ingest.decode import decode, pixels_of
from tests.data_pipeline.conftest import encoded, noise
from tests.data_pipeline.ingest.pictures import ADOBE_RGB, SRGB, icc, icc_black_only, photo, png

CLOSE = 2


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, 10_000_000))


def assert_close(data: bytes, wanted: np.ndarray, most: float = CLOSE) -> None:
    got = pixels(data).astype(float)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= most


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Both of 0 ... 1."""
    return 255 * (colour * alpha + 1 - alpha)


def to_srgb(values: np.ndarray, gamma: float, colours: tuple[tuple[float, ...], ...]) -> np.ndarray:
    """Values of 0 ... 1 under a profile as sRGB of 0 ... 255."""
    xyz = values**gamma @ np.array(colours)
    linear = np.clip(xyz @ np.linalg.inv(np.array(SRGB)), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def wide(seed: int, channels: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65536, (13, 17, channels), dtype=np.uint16)


@pytest.mark.parametrize("interlaced", [False, True])
def test_16_bit(interlaced: bool) -> None:
    grey, colour, both, clear = wide(0, 1), wide(1, 3), wide(2, 2), wide(3, 4)
    assert_close(png(grey, 0, interlaced), np.repeat(grey / 257, 3, -1), 0.51)
    assert_close(png(colour, 2, interlaced), colour / 257)
    assert_close(png(both, 4, interlaced), np.repeat(on_white(both[..., :1] / 65535, both[..., 1:] / 65535), 3, -1))
    assert_close(png(clear, 6, interlaced), on_white(clear[..., :3] / 65535, clear[..., 3:] / 65535))


@pytest.mark.parametrize("interlaced", [False, True])
def test_8_bit(interlaced: bool) -> None:
    for kind, channels in ((0, 1), (2, 3), (4, 2), (6, 4)):
        values = np.random.default_rng(kind).integers(0, 256, (9, 11, channels), dtype=np.uint8)
        alpha = values[..., -1:] / 255 if kind >= 4 else np.ones((9, 11, 1))
        colour = np.broadcast_to(values[..., : channels - (kind >= 4)] / 255, (9, 11, 3))
        assert_close(png(values, kind, interlaced), on_white(colour, alpha), 1)


def test_grey_of_other_depths() -> None:
    dark = np.full((8, 8), 200, np.uint16)
    assert (pixels(encoded(Image.fromarray(dark))) == 1).all(), "a dark 16-bit picture was taken for an 8-bit one"
    assert (pixels(encoded(Image.new("1", (4, 4), 1))) == 255).all()
    floats = np.array([[0.0, 100.0], [np.nan, 255.0]], np.float32)
    assert pixels(encoded(Image.fromarray(floats), "TIFF"))[..., 0].tolist() == [[0, 100], [0, 255]]
    signed = np.array([[-5, 0, 100], [255, 1, 2]], np.int32)
    assert pixels(encoded(Image.fromarray(signed), "TIFF"))[..., 1].tolist() == [[0, 0, 100], [255, 1, 2]]
    deep = np.array([[-5, 257, 65535], [70000, 2570, 0]], np.int32)
    assert pixels(encoded(Image.fromarray(deep), "TIFF"))[..., 1].tolist() == [[0, 1, 255], [255, 10, 0]]
    light = np.array([[0.0, 25700.0, -1.0, 1e9]], np.float32)
    assert pixels(encoded(Image.fromarray(light), "TIFF"))[..., 2].tolist() == [[0, 100, 0, 255]]
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    assert_close(encoded(Image.fromarray(ramp), "TIFF"), np.repeat(ramp[..., None] / 257, 3, -1), 0.51)


def test_transparency_is_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (pixels(encoded(clear)) == 255).all()
    assert (pixels(encoded(clear, "WEBP", lossless=True)) == 255).all()
    assert (pixels(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)))) == 127).all()
    assert (pixels(encoded(Image.new("LA", (4, 4), (0, 0)))) == 255).all()
    assert (pixels(encoded(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3))) == 255).all()
    assert (pixels(encoded(Image.new("L", (4, 4), 9), "PNG", transparency=9)) == 255).all()


def test_palettes() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 255])
    palette.putdata([0, 1, 2])
    plain = np.array([[[10, 20, 30], [200, 100, 50], [0, 0, 255]]])
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        assert_close(encoded(palette, kind), plain, 0)
    alpha = np.array([255, 128, 0])[None, :, None] / 255
    assert_close(encoded(palette, "PNG", transparency=bytes([255, 128, 0])), on_white(plain / 255, alpha), 1)
    assert (pixels(encoded(palette, "GIF", transparency=1))[0, 1] == 255).all()


def test_cmyk_is_the_colour_that_a_viewer_shows() -> None:
    """With Adobe's mark (stored inverted), as Photoshop writes it, and in TIFF, where it is not."""
    inks = np.array([[(0, 255, 255, 0), (255, 0, 0, 0), (0, 0, 0, 255), (40, 90, 160, 60), (0, 0, 0, 0)]], np.uint8)
    blocks = np.repeat(np.repeat(inks, 16, 0), 16, 1)
    picture = Image.frombytes("CMYK", blocks.shape[1::-1], blocks.tobytes())
    parts = blocks / 255
    wanted = 255 * (1 - parts[..., :3]) * (1 - parts[..., 3:])
    data = encoded(picture, "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in data
    assert_close(data, wanted)
    assert_close(encoded(picture, "TIFF"), wanted, 1)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
def test_profiles_become_srgb(kind: str) -> None:
    """Adobe RGB by the formula. JPEG, AVIF: flat patches, since compression has errors of its own."""
    values = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    values = np.repeat(np.repeat(values, 16, 0), 16, 1)
    profile = icc(2.19921875, ADOBE_RGB)
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}, "AVIF": {"quality": 100}}.get(
        kind, {}
    )
    data = encoded(Image.fromarray(values), kind, icc_profile=profile, **options)
    plain = encoded(Image.fromarray(values), kind, **options)
    wanted = to_srgb(pixels(plain) / 255, 2.19921875, ADOBE_RGB)
    assert np.abs(wanted - pixels(plain)).max() > 20, "the profile says nothing: what is tested?"
    assert_close(data, wanted)
    small = pixels_of(data, ImagesConfig(size=32))
    assert np.abs(small[4::8, 4::8].astype(float) - wanted[8::16, 8::16]).max() <= CLOSE + 1


def test_profiles_with_alpha_and_palettes() -> None:
    profile = icc(1.8, ADOBE_RGB)
    colours = noise(3, 6, 5).convert("RGBA")
    alpha = np.random.default_rng(1).integers(0, 256, (5, 6, 1), dtype=np.uint8)
    colours.putalpha(Image.fromarray(alpha[..., 0]))
    straight = to_srgb(np.asarray(colours)[..., :3] / 255, 1.8, ADOBE_RGB) / 255
    assert_close(encoded(colours, "PNG", icc_profile=profile), on_white(straight, alpha / 255))
    palette = photo(2, 12, 9).quantize(8)
    shown = np.asarray(palette.convert("RGB")) / 255
    assert_close(encoded(palette, "PNG", icc_profile=profile), to_srgb(shown, 1.8, ADOBE_RGB))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_profiles(kind: str) -> None:
    ramp = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None], 16, 0))
    options = {"quality": 100} if kind == "JPEG" else {}
    shown = pixels(encoded(ramp, kind, **options)) / 255
    linear = shown**1.5
    wanted = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert_close(encoded(ramp, kind, icc_profile=icc(1.5), **options), wanted)
    both = Image.merge("LA", (ramp, Image.new("L", ramp.size, 255)))
    assert_close(
        encoded(both, "PNG", icc_profile=icc(1.5)), np.asarray(pixels(encoded(ramp, "PNG", icc_profile=icc(1.5)))), 0
    )


def test_srgb_and_broken_profiles_change_nothing() -> None:
    picture = noise(4)
    plain = pixels(encoded(picture))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    good = icc(1.8, ADOBE_RGB)
    broken = [srgb, b"x", good[:100], good[:200], b"\0" * 500, icc(1.8), good[:16] + b"CMYK" + good[20:]]
    broken.append(good[:144] + struct.pack(">4sII", b"rXYZ", 2**31, 2**31) + good[156:])
    for profile in broken:
        assert np.array_equal(pixels(encoded(picture, "PNG", icc_profile=profile)), plain)
    random = np.random.default_rng(0)
    for _ in range(50):
        spoiled = bytearray(good)
        for place in random.integers(0, len(good), 8):
            spoiled[place] = random.integers(0, 256)
        assert pixels(encoded(picture, "PNG", icc_profile=bytes(spoiled))).shape == plain.shape


def test_profiles_of_inks() -> None:
    """Black alone counts: L* = 100 (1 - K), by the formula of L*. One of another colour space is passed over."""
    inks = np.array([[(255, 0, 0, 0), (0, 255, 255, 64), (9, 9, 9, 128), (0, 0, 0, 200), (90, 0, 50, 255)]], np.uint8)
    blocks = np.repeat(np.repeat(inks, 16, 0), 16, 1)
    picture = Image.frombytes("CMYK", blocks.shape[1::-1], blocks.tobytes())
    light = (100 * (1 - blocks[..., 3:] / 255) + 16) / 116
    linear = np.where(light > 6 / 29, light**3, 3 * (6 / 29) ** 2 * (light - 4 / 29))
    wanted = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    for kind, options in (("JPEG", {"quality": 100, "subsampling": 0}), ("TIFF", {})):
        plain = encoded(picture, kind, **options)
        assert Image.open(io.BytesIO(plain)).mode == "CMYK"
        assert_close(encoded(picture, kind, icc_profile=icc_black_only(), **options), np.repeat(wanted, 3, -1))
        other = encoded(picture, kind, icc_profile=icc(1.8, ADOBE_RGB), **options)
        assert np.array_equal(pixels(other), pixels(plain))
