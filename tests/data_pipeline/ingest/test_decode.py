"""Any picture that can be parsed becomes RGB as a viewer would show it; anything else is refused with a reason."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.ingest import ImagesConfig
from data_pipeline.ingest.decode import PictureError, decode, pixels_of, prepare, read_header
from tests.data_pipeline.conftest import encoded, noise
from tests.data_pipeline.ingest.pictures import chunk, icc, photo, png

MOST = 10_000_000
FORMATS = ("JPEG", "PNG", "WEBP")


def pixels(data: bytes) -> np.ndarray:
    picture = decode(data, MOST)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def config(**options: Any) -> ImagesConfig:
    return ImagesConfig(**{"mode": "none", "format": "jpg", **options})


def stored_as(wanted: np.ndarray, orientation: int) -> Image.Image:
    """What a camera held so would store."""
    undo = {
        1: wanted,
        2: wanted[:, ::-1],
        3: wanted[::-1, ::-1],
        4: wanted[::-1],
        5: wanted.transpose(1, 0, 2),
        6: np.rot90(wanted, 1),
        7: wanted[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(wanted, -1),
    }[orientation]
    return Image.fromarray(np.ascontiguousarray(undo))


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    """A picture stored in each of the eight orientations looks the same, and its header says how large it looks."""
    wanted = np.asarray(noise(0, 24, 16))
    stored, exif = stored_as(wanted, orientation), exif_of(orientation)
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    for data in (
        encoded(stored, "PNG", exif=exif),
        png(np.asarray(stored), 2, after=chunk(b"eXIf", body)),
        encoded(stored, "WEBP", lossless=True, exif=exif),
        encoded(stored, "TIFF", exif=exif),
        encoded(stored, "TIFF", tiffinfo={274: orientation, 700: b"<x:xmpmeta/>"}),
    ):
        assert np.array_equal(pixels(data), wanted)
        header = read_header(data, MOST)
        assert (header.width, header.height) == (24, 16)
        assert prepare(data, config(format="png")).info.width == 24


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["none", "keep-ratio", "center-crop", "border"])
def test_a_turned_jpeg_is_resized_as_the_upright_one(orientation: int, mode: str) -> None:
    wanted = np.asarray(photo(0, 320, 240, 2.0))
    data = encoded(stored_as(wanted, orientation), "JPEG", quality=95, subsampling=0, exif=exif_of(orientation))
    upright = encoded(Image.fromarray(wanted), "JPEG", quality=95, subsampling=0)
    turned = pixels_of(data, config(mode=mode, size=60)).astype(int)
    plain = pixels_of(upright, config(mode=mode, size=60))
    # Measured: 5 at most (tables of JPEG are not symmetric); 50 and more if one were mirrored.
    assert turned.shape == plain.shape and np.abs(turned - plain).max() <= 6
    assert read_header(data, MOST).width == 320


def test_broken_orientation_tags_count_as_none() -> None:
    """A hundred scrambled tags, as cameras and editors write them: the picture comes out."""
    data = encoded(noise(1), "JPEG", exif=exif_of(6))
    start = data.index(b"Exif")
    random = np.random.default_rng(0)
    for _ in range(100):
        spoiled = bytearray(data)
        for place in random.integers(start + 6, start + len(exif_of(6).tobytes()), 6):
            spoiled[place] = random.integers(0, 256)
        assert sorted(pixels(bytes(spoiled)).shape) == [3, 16, 24]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "AVIF" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
    assert np.abs(pixels(data).astype(int) - (255, 0, 0)).max() <= 2
    name = kind.lower() if kind != "GIF" else "png"
    if name != "avif":
        assert prepare(data, config(format=name)).data != data, "an animation was passed on"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "PPM"])
def test_what_is_cut_short_is_corrupt(kind: str) -> None:
    data = encoded(photo(3, 120, 90), kind)
    assert pixels(data).shape == (90, 120, 3)
    reasons = set()
    for share in (0.3, 0.5, 0.8, 0.95):
        with pytest.raises(PictureError) as caught:
            prepare(data[: int(len(data) * share)], config(mode="keep-ratio", size=40))
        reasons.add(caught.value.reason)
    assert reasons <= {"corrupt", "not_a_picture"}


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_anywhere_is_corrupt(progressive: bool) -> None:
    """Decoders fill the rest with grey and only warn, and the end mark may be all that is missing."""
    data = encoded(photo(4, 90, 60), "JPEG", progressive=progressive)
    for options in ({"mode": "none"}, {"mode": "keep-ratio", "size": 10}, {"mode": "border", "size": 20}):
        for cut in (1, 2, 3, 40, len(data) // 2):
            with pytest.raises(PictureError) as caught:
                prepare(data[:-cut], config(**options))
            assert caught.value.reason == "corrupt"


def test_what_is_no_picture_says_why() -> None:
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"
    page = b"<html><body>404</body></html>"
    for data, reason in (
        (b"", "empty"),
        (b"hello", "not_a_picture"),
        (program, "not_a_picture"),
        (page, "not_a_picture"),
    ):
        for call in (lambda d: decode(d, MOST), lambda d: read_header(d, MOST), lambda d: prepare(d, config())):
            with pytest.raises(PictureError) as caught:
                call(data)
            assert caught.value.reason == reason


def test_a_format_that_this_pillow_lacks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow before 11.3 has no AVIF, and raised KeyError for whatever the formats before it did not take."""
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "AVIF"])
    assert pixels(encoded(noise(0))).shape == (16, 24, 3)
    with pytest.raises(PictureError) as caught:
        decode(b"hello", MOST)
    assert caught.value.reason == "not_a_picture"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_what_needs_no_change_keeps_its_bytes(kind: str, mode: str) -> None:
    name = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[kind]
    data = encoded(photo(5, 40, 30).convert(mode), kind, **({"comment": b"mine"} if kind == "JPEG" else {}))
    for options in ({"mode": "none"}, {"mode": "keep-ratio", "size": 30}, {"mode": "keep-ratio", "size": 500}):
        stored = prepare(data, config(format=name, **options))
        assert stored.data == data and stored.format == name
        assert np.array_equal(stored.pixels, pixels(data)) and stored.pixels.shape == (30, 40, 3)
        assert prepare(data, config(format=name, passthrough=False, **options)).data != data or kind == "PNG"
    assert prepare(data, config(format="png" if name != "png" else "webp")).data != data
    assert prepare(data, config(format=name), canvas=(40, 30)).info.width == 40


@pytest.mark.parametrize(
    "why",
    [
        "turned",
        "too large",
        "profile",
        "alpha",
        "alpha in WebP",
        "transparent colour",
        "16 bit",
        "4 bit",
        "CMYK",
        "warning",
        "frames",
        "canvas",
    ],
)
def test_what_has_to_change_is_written_anew(why: str) -> None:
    """Each of these would be shown otherwise than its pixels say, or is not just a picture."""
    picture, form, options, canvas = photo(6, 40, 30), "jpg", {}, None
    data = encoded(picture, "JPEG")
    if why == "turned":
        data = encoded(picture, "JPEG", exif=exif_of(2))
    elif why == "too large":
        options = {"mode": "keep-ratio-largest", "size": 39}
    elif why == "profile":
        data = encoded(picture, "JPEG", icc_profile=icc(1.0, ((0.6, 0.3, 0), (0.2, 0.6, 0.1), (0.1642, 0.1, 0.7249))))
    elif why == "alpha":
        data, form = encoded(picture.convert("RGBA")), "png"
    elif why == "alpha in WebP":
        data, form = encoded(picture.convert("RGBA").rotate(30), "WEBP"), "webp"
    elif why == "transparent colour":
        data, form = encoded(picture, "PNG", transparency=(1, 2, 3)), "png"
    elif why == "16 bit":
        data, form = png(np.asarray(picture).astype(np.uint16) * 257, 2), "png"
    elif why == "4 bit":
        data, form = encoded(picture.quantize(16), "PNG", bits=4), "png"
    elif why == "CMYK":
        data = encoded(picture.convert("CMYK"), "JPEG")
    elif why == "warning":
        data = data[:20] + b"\0\0" + data[20:]  # bytes between segments: viewers pass over them
    elif why == "frames":
        data = encoded(picture, "MPO", save_all=True, append_images=[picture])
    elif why == "canvas":
        canvas = (40, 30)
    stored = prepare(data, config(format=form, **options), canvas)
    assert stored.data != data
    again = Image.open(io.BytesIO(stored.data))
    assert again.mode == "RGB" and not again.info.keys() & {"icc_profile", "exif", "transparency"}
    if form == "png":
        assert np.array_equal(np.asarray(again), stored.pixels)


@pytest.mark.parametrize("form", ["jpg", "png", "webp"])
def test_pixels_are_those_that_are_encoded(form: str) -> None:
    data = encoded(photo(7, 100, 70), "JPEG")
    one = prepare(data, config(mode="keep-ratio", size=50, format=form, quality=90))
    assert (one.info.width, one.info.height) == (71, 50) == Image.open(io.BytesIO(one.data)).size
    assert one.format == form and one.pixels.shape == (50, 71, 3) and one.pixels.dtype == np.uint8
    close = {"jpg": 6, "png": 0, "webp": 9}[form]  # mean error; measured 2.3, 0, 3.9
    assert np.abs(np.asarray(Image.open(io.BytesIO(one.data))).astype(int) - one.pixels).mean() <= close
    assert np.array_equal(pixels_of(data, config(mode="keep-ratio", size=50)), one.pixels)
    assert prepare(data, config(mode="keep-ratio", size=50, format=form, quality=90)).data == one.data


def test_a_side_that_a_format_cannot_hold() -> None:
    strip = encoded(Image.new("RGB", (20_000, 2), "red"))
    with pytest.raises(PictureError) as caught:
        prepare(strip, config(mode="none", format="webp"))
    assert caught.value.reason == "too_long"
    assert prepare(strip, config(mode="keep-ratio", size=2, format="webp")).info.width == 16383
    with pytest.raises(PictureError) as caught:
        prepare(strip, config(mode="keep-ratio", size=3000, format="jpg", enlarge=True, max_pixels=100_000))
    assert caught.value.reason == "too_many_pixels"
