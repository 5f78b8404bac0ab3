"""Copies are near, other pictures are not: shapes, colours, small details, smooth ones."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw

from data_pipeline.ingest.dedup.near_keys import coarse_keys, fine_keys
from data_pipeline.ingest.dedup.perceptual import CHROMA, NEAR_BYTES, near, perceptual_hash, plain
from tests.data_pipeline.ingest.dedup.conftest import brighter, picture


def stacked(*pictures: np.ndarray) -> np.ndarray:
    return np.stack([np.frombuffer(perceptual_hash(pixels), np.uint8) for pixels in pictures])


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Near, both ways round, and found: both in one bucket of either layer."""
    pair = stacked(one, other)
    alike = bool(near(pair[:1], pair[1:])[0])
    assert alike == bool(near(pair[1:], pair[:1])[0])
    if alike:
        for keys in (coarse_keys, fine_keys):
            at, key = keys(pair)
            assert set(key[at == 0].tolist()) & set(key[at == 1].tolist())
    return alike


def copy(pixels: np.ndarray, factor: float = 1.0, kind: str = "PNG", **options: int) -> np.ndarray:
    image = Image.fromarray(pixels)
    if factor != 1:
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return np.asarray(Image.open(sink).convert("RGB"))


def letter(text: str) -> np.ndarray:
    image = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(image).text((40, 20), text, "black", font_size=80)
    return np.asarray(image)


def test_a_hash_has_its_size_whatever_the_picture() -> None:
    for shape in ((1, 1), (3, 700), (700, 3), (256, 341)):
        assert len(perceptual_hash(np.full((*shape, 3), 9, np.uint8))) == NEAR_BYTES


def test_it_is_the_same_for_a_view_of_other_memory() -> None:
    pixels = picture(1)
    turned = np.asfortranarray(pixels)
    assert perceptual_hash(turned) == perceptual_hash(pixels)


@pytest.mark.parametrize("factor", [0.5, 0.33, 1.5, 2.0])
def test_resized_copies_are_near(factor: float) -> None:
    assert all(same(picture(seed, 300, 200), copy(picture(seed, 300, 200), factor)) for seed in range(20))


@pytest.mark.parametrize(("kind", "quality"), [("JPEG", 50), ("WEBP", 60)])
def test_encoded_copies_are_near(kind: str, quality: int) -> None:
    assert all(
        same(picture(seed, 300, 200), copy(picture(seed, 300, 200), 1, kind, quality=quality)) for seed in range(20)
    )


def test_different_pictures_are_not_near() -> None:
    values = stacked(*(picture(seed) for seed in range(200)))
    one, other = np.triu_indices(200, 1)
    assert not near(values[one], values[other]).any()


def test_equal_shapes_of_other_colour_are_not_near() -> None:
    red, green = (np.full((96, 96, 3), 255, np.uint8) for _ in range(2))
    red[20:60, 20:60] = (200, 30, 30)
    green[20:60, 20:60] = (0, 132, 30)  # as bright
    assert not same(red, green)


@pytest.mark.parametrize(("colour", "part"), [((255, 0, 0), 1), ((0, 0, 255), 0)])
def test_the_strongest_colours_stay_at_the_end_of_their_scale(colour: tuple[int, int, int], part: int) -> None:
    """Cr of red would be 256: as a byte, 0, the Cr of cyan."""
    value = stacked(np.full((64, 64, 3), colour, np.uint8))
    assert (value[:, CHROMA[part]] >= 254).all()


def drawn(size: int, draw: Callable[[ImageDraw.ImageDraw], None], ground: str = "white") -> np.ndarray:
    """Drawn on 1024 x 1024, so that parts lie between pixels."""
    image = Image.new("RGB", (1024, 1024), ground)
    draw(ImageDraw.Draw(image))
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def face(tear: bool) -> Callable[[ImageDraw.ImageDraw], None]:
    def draw(on: ImageDraw.ImageDraw) -> None:
        on.ellipse((60, 60, 964, 964), "orange", "black", 12)
        on.ellipse((300, 300, 380, 420), "black")
        on.ellipse((640, 300, 720, 420), "black")
        on.arc((300, 600, 720, 900), 200, 340, "black", 20)
        if tear:
            on.ellipse((660, 440, 710, 510), (255, 185, 60))

    return draw


@pytest.mark.parametrize("size", [112, 256])
def test_a_tear_makes_another_picture(size: int) -> None:
    """A twentieth of the width, hardly brighter than the face."""
    happy, sad = drawn(size, face(False)), drawn(size, face(True))
    assert not same(happy, sad)
    for pixels in (happy, sad):
        assert same(pixels, copy(pixels, 0.6)) and same(pixels, copy(pixels, 1, "JPEG", quality=50))


def test_borders_make_another_map() -> None:
    def land(borders: bool) -> Callable[[ImageDraw.ImageDraw], None]:
        def draw(on: ImageDraw.ImageDraw) -> None:
            on.polygon([(90, 200), (500, 60), (940, 330), (820, 900), (300, 940)], "darkseagreen", "black", 8)
            if borders:
                on.line([(500, 60), (450, 940), (880, 600)], "black", 6)

        return draw

    assert not same(drawn(256, land(False)), drawn(256, land(True)))


def test_a_small_drawing_moved_within_its_cells_is_another_one() -> None:
    def lines(by: int) -> Callable[[ImageDraw.ImageDraw], None]:
        def draw(on: ImageDraw.ImageDraw) -> None:
            for row in range(6):
                on.line([(100, 150 + 130 * row + by), (900, 150 + 130 * row + by)], "black", 40)

        return draw

    here = drawn(60, lines(0))
    assert not same(here, drawn(60, lines(5)))  # 0.3 pixels
    assert same(here, copy(here, 1.5))


def test_a_pale_shape_of_another_size_is_not_near() -> None:
    """Yellow on near-white differs in colour alone; small pictures lose much of theirs as JPEG."""

    def triangle(height: int) -> Callable[[ImageDraw.ImageDraw], None]:
        return lambda on: on.polygon(
            [(400, 460), (400 - height // 2, 460 + height), (400 + height // 2, 460 + height)], "yellow"
        )

    small, large = (drawn(64, triangle(height), "#f4f0ee") for height in (280, 350))
    assert not same(small, large)
    assert same(small, copy(small, 1, "JPEG", quality=50)) and same(large, copy(large, 1, "JPEG", quality=50))


@pytest.mark.parametrize("size", [32, 40, 64])
def test_small_pictures_are_near_to_what_jpeg_leaves_of_them(size: int) -> None:
    pictures = [np.asarray(Image.fromarray(letter(text)).resize((size, size))) for text in "AEMS"]
    assert all(same(pixels, copy(pixels, 1, "JPEG", quality=50)) for pixels in pictures)


def test_letters_are_not_near() -> None:
    letters = [letter(text) for text in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    values = stacked(*letters)
    one, other = np.triu_indices(len(letters), 1)
    assert not near(values[one], values[other]).any()
    assert all(same(pixels, copy(pixels, 0.5)) for pixels in letters)


def test_another_shape_is_not_near() -> None:
    pixels = picture(3, 200, 200)
    wide = np.asarray(Image.fromarray(pixels).resize((240, 200)))
    assert not same(pixels, wide)


def test_a_small_thing_makes_another_picture() -> None:
    """A sixteenth of the width, as in icons that differ by a badge: the finest grid sees it, the 8 x 8 one barely."""
    pixels = np.full((256, 256, 3), 230, np.uint8)
    pixels[60:200, 40:120] = (180, 120, 60)
    badge = pixels.copy()
    badge[16:32, 224:240] = (120, 200, 235)
    assert not same(pixels, badge)


@pytest.mark.parametrize("levels", [0, 1, 120])
def test_smooth_pictures_are_near_to_nothing(levels: int) -> None:
    slope = np.repeat(np.linspace(0, levels, 64).astype(np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    value = stacked(slope, brighter(slope, 1))
    assert plain(value).all()
    assert not near(value[:1], value[:1])[0]
    assert not len(coarse_keys(value)[0])


def test_near_is_not_transitive() -> None:
    steps = [brighter(picture(5), levels) for levels in (0, 3, 6)]
    assert same(steps[0], steps[1]) and same(steps[1], steps[2]) and not same(steps[0], steps[2])


def test_buckets_are_few() -> None:
    values = stacked(*(picture(seed) for seed in range(300)))
    assert len(coarse_keys(values)[0]) < 3 * len(values)
    assert len(fine_keys(values)[0]) < 12 * len(values)


def test_keys_do_not_depend_on_what_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    values = stacked(*(picture(seed) for seed in range(50)))
    whole = set(zip(*(part.tolist() for part in fine_keys(values)), strict=True))
    monkeypatch.setattr("data_pipeline.ingest.dedup.near_keys.BLOCK", 7)
    assert set(zip(*(part.tolist() for part in fine_keys(values)), strict=True)) == whole
