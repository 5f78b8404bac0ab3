"""Any picture that Pillow can parse becomes RGB as a viewer would show it; anything else is refused with a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data_pipeline.ingest.decode import PictureError, decode, encode, on_canvas, resize
from tests.data_pipeline.conftest import encoded, noise

MOST = 10_000_000


def pixels(data: bytes) -> np.ndarray:
    picture = decode(data, MOST)
    assert picture.mode == "RGB"
    return np.asarray(picture)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    """A picture stored in each of the eight orientations looks the same."""
    wanted = np.asarray(noise(0, 24, 16))
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
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo))
    assert np.array_equal(pixels(encoded(stored, "PNG", exif=exif)), wanted)


def test_broken_orientation_tags_are_a_reason_not_a_crash() -> None:
    """Every truncation and a hundred scrambled tags: a picture comes out, or a reason."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(noise(1), "JPEG", exif=exif)
    start = data.index(b"Exif")
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(100):
        spoiled = bytearray(data)
        for place in random.integers(start + 4, start + 40, 6):
            spoiled[place] = random.integers(0, 256)
        try:
            decode(bytes(spoiled), MOST)
            outcomes.add("picture")
        except PictureError as error:
            outcomes.add(error.reason)
    assert "picture" in outcomes and outcomes <= {"picture", "corrupt", "not_a_picture"}


def test_transparency_is_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert (pixels(encoded(clear)) == 255).all()
    assert (pixels(encoded(half)) == 127).all()
    assert (pixels(encoded(Image.new("LA", (4, 4), (0, 0)))) == 255).all()
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    assert (pixels(encoded(palette)) == (200, 100, 50)).all()
    assert (pixels(encoded(palette, "PNG", transparency=1)) == 255).all()
    assert (pixels(encoded(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3))) == 255).all()


def test_grey_of_any_depth() -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    wanted = np.rint(ramp / 257).astype(np.uint8)
    assert np.array_equal(pixels(encoded(Image.fromarray(ramp)))[..., 0], wanted)
    dark = np.full((8, 8), 200, np.uint16)
    assert (pixels(encoded(Image.fromarray(dark))) == 1).all(), "a dark 16-bit picture was taken for an 8-bit one"
    assert (pixels(encoded(Image.new("1", (4, 4), 1))) == 255).all()
    floats = np.array([[0.0, 100.0], [np.nan, 300.0]], np.float32)
    assert pixels(encoded(Image.fromarray(floats), "TIFF")).shape == (2, 2, 3)


def test_cmyk_is_the_colour_that_a_viewer_shows() -> None:
    red = pixels(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    # Measured: (254, 0, 0). Inverted inks would give cyan, (0, 255, 255).
    assert (np.abs(red.astype(int) - (255, 0, 0)) <= 4).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
    assert (pixels(data) == (255, 0, 0)).all()


def bomb(width: int, height: int) -> bytes:
    """A PNG header of a huge picture with next to nothing behind it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (4000, 4000)])
def test_a_bomb_is_refused_from_its_header(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(PictureError) as caught:
        decode(bomb(width, height), MOST)
    assert caught.value.reason == "too_many_pixels"


def test_what_is_no_picture_says_why() -> None:
    good = encoded(noise(2, 200, 200), "JPEG")
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"
    for data, reason in (
        (b"", "empty"),
        (b"hello", "not_a_picture"),
        (program, "not_a_picture"),
        (good[: len(good) // 2], "corrupt"),
        (bomb(40, 40), "corrupt"),
    ):
        with pytest.raises(PictureError) as caught:
            decode(data, MOST)
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


def test_sizes() -> None:
    wide = noise(3, 100, 30)
    assert resize(wide, "keep-ratio", 50).size == (50, 15)
    assert resize(wide, "keep-ratio", 200) is wide, "a picture was enlarged"
    assert resize(noise(3, 1000, 1), "keep-ratio", 50).size == (50, 1)
    assert resize(wide, "border", 64).size == (64, 64)
    canvas = np.asarray(on_canvas(Image.new("RGB", (10, 20)), (40, 40)))
    assert canvas.shape == (40, 40, 3)
    assert (canvas[:, 10:30] == 0).all() and (canvas[:, :10] == 255).all() and (canvas[:, 30:] == 255).all()


def test_padding_with_the_edge_goes_on_with_the_background() -> None:
    """A shape on a plain ground, one corner of it touching the edge: the canvas has the ground's colour, not white."""
    picture = Image.new("RGB", (20, 20), (200, 180, 40))
    picture.paste((10, 10, 10), (0, 0, 6, 6))
    for fitted in (on_canvas(picture, (40, 20), "edge"), resize(picture.resize((40, 20), 0), "border", 40, "edge")):
        canvas = np.asarray(fitted)
        assert (canvas[-1] == (200, 180, 40)).all() and (canvas[0, -1] == (200, 180, 40)).all()
    assert (np.asarray(on_canvas(picture, (40, 20), "edge"))[:, :10] == (200, 180, 40)).all()


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_encoding_is_stable(kind: str) -> None:
    first, info = encode(noise(4, 30, 20), kind, 90)
    assert encode(noise(4, 30, 20), kind, 90)[0] == first
    assert (info.width, info.height) == (30, 20) == Image.open(io.BytesIO(first)).size
