"""Pixels, views and expanded prompts as the published processors make them (transformers, the Pillow backends).

Pillow goes down the columns first where that is cheaper (from version 13 on), this code never does. So each picture is compared twice:
with a Pillow that is made to go along rows first every byte is equal; with Pillow as it is, a few levels differ.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from configs.data import TemplateConfig
from configs.errors import UserError
from configs.model import ModelConfig
from configs.resolutions import RowColumnResolution
from data_pipeline.sample import Conversation, Message
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.collate import Ready, collate, widen
from data_pipeline.stream.geometry import Geometry, geometry_of
from data_pipeline.stream.images import to_patches, views_of
from data_pipeline.stream.layout import picture_layout
from data_pipeline.stream.loader import Loader
from tests.data_pipeline.stream.conftest import train_recipe

SIZES = ((640, 480), (97, 333), (336, 336), (1000, 61), (50, 40), (1201, 1203))
MEAN = (0.48145466, 0.4578275, 0.40821073)
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ROW_COLUMN = {"size": {"longest_edge": 1120}, "max_image_size": {"longest_edge": 280}}
CLIP336 = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}

LEVELS = 6
"""What Pillow's order may change. Measured: nothing in 52 of 54 pictures; in those that get wider and lower (97 x 333) up to
6 levels in 1 % of the values, where an overshoot is cut at 0 or 255 between the passes."""

# name: (processor, its settings, encoder's patch, resolution)
FAMILIES: dict[str, tuple[str, dict[str, Any], int, dict[str, Any]]] = {
    "clip": ("CLIPImageProcessorPil", CLIP336, 14, {"type": "square", "size": 336, "fit": "crop"}),
    "llava crop": ("LlavaImageProcessorPil", CLIP336, 14, {"type": "square", "size": 336, "fit": "crop"}),
    "llava pad": (
        "LlavaImageProcessorPil",
        {**CLIP336, "do_pad": True, "image_mean": MEAN},
        14,
        {"type": "square", "size": 336, "fit": "pad"},
    ),
    "blip2": ("BlipImageProcessorPil", {"size": {"height": 224, "width": 224}}, 14, {"type": "square"}),
    "siglip 384": (
        "SiglipImageProcessorPil",
        {"size": {"height": 384, "width": 384}},
        14,
        {"type": "square", "size": 384},
    ),
    "llava next": (
        "LlavaNextImageProcessorPil",
        {**CLIP336, "image_grid_pinpoints": PINPOINTS},
        14,
        {"type": "anyres", "size": 336, "grids": [[a // 336, b // 336] for a, b in PINPOINTS]},
    ),
    "internvl": (
        "GotOcr2ImageProcessorPil",
        {"size": {"height": 448, "width": 448}, "crop_to_patches": True, "max_patches": 12},
        14,
        {"type": "tiles", "size": 448, "max_tiles": 12},
    ),
    "idefics3": (
        "Idefics3ImageProcessorPil",
        ROW_COLUMN,
        14,
        {"type": "row_column", "size": 280, "longest": 1120},
    ),
    "smolvlm": (
        "SmolVLMImageProcessorPil",
        {"size": {"longest_edge": 768}, "max_image_size": {"longest_edge": 384}},
        14,
        {"type": "row_column", "size": 384, "longest": 768},
    ),
}


def geometry(patch: int, resolution: dict[str, Any]) -> Geometry:
    """The policy for a ViT with CLIP's mean colour."""
    encoder = {"type": "vit", "patch": patch, "image_size": 224, "width": 8, "depth": 1, "heads": 1, "mlp_width": 8}
    decoder = {"layers": 1, "width": 32, "heads": 2, "mlp_width": 32}
    model = {"encoder": {**encoder, "pixel_mean": MEAN}, "resolution": resolution, "decoder": decoder}
    return geometry_of(ModelConfig.model_validate(model))


def picture(width: int, height: int) -> NDArray[np.uint8]:
    """Slopes with noise, and hard edges, which overshoot."""
    random = np.random.default_rng(width * height)
    slope = np.linspace(0, 255, width)[None, :, None] + np.linspace(0, 90, height)[:, None, None]
    noise = random.normal(0, 25, (height, width, 3))
    pixels = np.clip(slope * [1, 0.5, 0.2] + noise, 0, 255).astype(np.uint8)
    pixels[height // 3 : height // 2, width // 3 : width // 2] = 255 * random.integers(0, 2, 3)
    return pixels


def rows_first(patch: pytest.MonkeyPatch) -> None:
    """Pillow's resize in two calls, along the rows and then down the columns."""
    plain = Image.Image.resize

    def resize(self: Any, size: Any, resample: Any = None, **more: Any) -> Any:
        return plain(plain(self, (size[0], self.size[1]), resample), size, resample)

    patch.setattr(Image.Image, "resize", resize)


def theirs(transformers: Any, name: str, settings: dict[str, Any], pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    processor = getattr(transformers, name)(do_rescale=False, do_normalize=False, **settings)
    tiling = {key: settings[key] for key in ("crop_to_patches", "max_patches") if key in settings}
    parts = [np.asarray(part) for part in processor(pixels, **tiling)["pixel_values"]]
    made = np.concatenate([part.reshape(-1, *part.shape[-3:]) for part in parts])
    assert (made == made.astype(np.uint8)).all()
    return made.astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_views_are_those_of_the_processor(
    family: str, size: tuple[int, int], transformers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their number, their order and every byte."""
    name, settings, patch, resolution = FAMILIES[family]
    known, pixels = geometry(patch, resolution), picture(*size)
    views = np.stack(views_of(pixels, picture_layout(*size, known), known.cell))
    as_it_is = theirs(transformers, name, settings, pixels)
    rows_first(monkeypatch)
    exact = theirs(transformers, name, settings, pixels)
    assert len(views) == len(exact)
    seen = views.shape[1]  # SigLIP's convolution leaves a rest of 384 pixels out; here it is not made
    assert np.array_equal(views, exact[:, :seen, :seen])
    assert exact.shape[1] - seen < patch
    off = np.abs(views.astype(int) - as_it_is[:, :seen, :seen])
    assert off.max() <= LEVELS and (off > 1).mean() < 0.02


@pytest.mark.parametrize("size", SIZES)
def test_patches_are_those_of_qwen2_vl(
    size: tuple[int, int], transformers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, known = picture(*size), Geometry(14, 2, "native", 4, 512, rounding="smart_resize")
    limits = {"shortest_edge": 4 * 28**2, "longest_edge": 512 * 28**2}
    processor = transformers.Qwen2VLImageProcessorPil(do_rescale=False, do_normalize=False, size=limits)
    (view,) = views_of(pixels, picture_layout(*size, known), known.cell)
    rows_first(monkeypatch)
    made = processor(pixels)
    assert [tuple(grid) for grid in made["image_grid_thw"]] == [(1, view.shape[0] // 14, view.shape[1] // 14)]
    flat = np.asarray(made["pixel_values"]).reshape(-1, 3, 2, 14 * 14)  # each picture twice, as a film of two
    assert np.array_equal(flat[:, :, 0], to_patches(view, 14, 2).reshape(-1, 3, 14 * 14))


# ---- prompts of pictures with rows and columns ---------------------------------------------------------------------

NAMES = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<|im_start|>", "<|im_end|>"]
NAMES += [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer with SmolVLM's tokens, in which two line ends are one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=NAMES,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["what is this?\n\n\n\nUser: a\n\nAssistant: a red square\n\n\n"], trainer)
    out = tmp_path_factory.mktemp("smolvlm")
    tokenizer.save(str(out / "tokenizer.json"))
    return out


@pytest.mark.parametrize("kind", ["Idefics3", "SmolVLM"])
@pytest.mark.parametrize("size", [*SIZES, (31, 900)])
def test_prompts_expand_as_the_processor_says(
    kind: str, size: tuple[int, int], folder: Path, transformers: Any
) -> None:
    """The ids of a picture, its tiles named row by row, and of the text around it; and a collated batch of them."""
    known = geometry(14, {"type": "row_column", "size": 280, "longest": 1120})
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    pixels = [picture(*size), picture(300, 200)]
    text = "<|im_start|>User:<image>what is<image>this?<end_of_utterance>\nAssistant: a red square<end_of_utterance>\n"
    images = getattr(transformers, f"{kind}ImageProcessorPil")(**ROW_COLUMN)
    if kind == "Idefics3":
        processor = transformers.Idefics3Processor(images, tokenizer, image_seq_len=known.side**2)
        expected = np.asarray(processor(text=text, images=[pixels])["input_ids"][0])
    else:  # whose processor asks for torchvision and num2words, for films: this is what it puts in for a picture
        from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

        info = images([pixels], return_row_col_info=True)
        grids = zip(info["rows"][0], info["cols"][0], strict=True)
        said = [get_image_prompt_string(*grid, known.side**2, NAMES[0], "<image>", NAMES[3]) for grid in grids]
        whole = "".join(a + b for a, b in zip(text.split("<image>"), [*said, ""], strict=True))
        expected = np.asarray(tokenizer(whole)["input_ids"])

    chat = Chat(str(folder), TemplateConfig(preset="smolvlm"))
    talk = (Message("user", "<image>what is<image>this?"), Message("assistant", "a red square"))
    sizes = [size, (300, 200)]
    encoded = chat.encode(Conversation(None, talk, {}), 2)
    wide = widen(encoded, sizes, known)
    assert np.array_equal(wide.ids, expected)

    chat.require_marks(known)
    batch = collate([[Ready(encoded, sizes, images=pixels)]], len(expected), known, chat.pad_id, cnn=False)
    assert np.array_equal(batch.ids[0], expected)
    assert np.array_equal(batch.vision.slots, np.flatnonzero(expected == chat.image_id))
    assert len(batch.vision.slots) == len(batch.vision.grids) * known.side**2 and batch.vision.order is None
    learned = batch.targets[0][batch.targets[0] >= 0]
    assert chat.decode(learned[:-1].tolist()) == "a red square" and learned[-1] == chat.end_id


def test_counts_of_rows_and_columns_are_published_ones(folder: Path, transformers: Any) -> None:
    """Thousands of sizes, by the processor's own arithmetic."""
    module = __import__("transformers.models.smolvlm.image_processing_pil_smolvlm", fromlist=["x"])
    random = np.random.default_rng(3)
    for longest, tile in ((2048, 512), (1456, 364), (768, 384), (365, 365)):
        processor = transformers.SmolVLMImageProcessorPil(max_image_size={"longest_edge": tile})
        monkey = Geometry(14, 1, "row_column", size=tile, longest=longest)
        for width, height in np.exp(random.uniform(0, 9, (800, 2))).astype(int).tolist():
            blank = np.broadcast_to(np.uint8(0), (3, height, width))
            high, wide = module.get_resize_output_image_size(blank, longest)
            asked: list[Any] = []
            processor.resize = lambda image, size, resample=None, asked=asked: asked.append(size)
            processor.resize_for_vision_encoder(np.broadcast_to(np.uint8(0), (3, high, wide)), tile)
            rows, columns = asked[0].height // tile, asked[0].width // tile
            planned = picture_layout(width, height, monkey)
            assert planned.tiles == ((rows, columns) if rows * columns > 1 else (0, 0)), (width, height, longest)
            assert planned.canvases[0].size == (wide, high)


def test_a_run_gets_what_was_planned(world: Path, folder: Path) -> None:
    """Counts before any pixel, pictures that shrink to fit a row, and no sample that turns out otherwise."""
    recipe = train_recipe(
        world,
        tokenizer=str(folder),
        template={"preset": "smolvlm"},
        long_samples="shrink-image",
        packing={"length": 128, "rows_per_step": 6, "window_steps": 3},
    )
    resolution = RowColumnResolution(size=28, longest=112)
    loader = Loader(recipe.model_copy(update={"model": recipe.model.model_copy(update={"resolution": resolution})}))
    name, image = (loader.chat.tokenizer.token_to_id(mark) for mark in ("<row_1_col_1>", "<image>"))
    batches = [batch for step in range(3) for batch in loader.step(step)]
    loader.close()
    infos = [info for batch in batches for row in batch.rows for info in row.samples]
    assert len(infos) >= 18 and not any("filler" in info for info in infos)
    views = np.concatenate([batch.vision.views for batch in batches if batch.vision.views is not None])
    assert views.max() > 5 and views.min() < 5, "pictures are cut into more and fewer tiles"
    assert sum(int((batch.ids == name).sum()) for batch in batches) == (views > 1).sum() > 0
    for batch in batches:
        assert np.array_equal(batch.vision.slots, np.flatnonzero(batch.ids.reshape(-1) == image))
        assert not np.isin(batch.targets, [name, image]).any()


def test_a_damaged_sample_keeps_its_shape(world: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filler has as many tokens as were planned, the marks between tiles among them."""

    def broken(data: bytes) -> Any:
        raise ValueError("not a picture")

    more = {"tokenizer": str(folder), "template": {"preset": "smolvlm"}, "max_bad_samples": 1.0}
    recipe = train_recipe(world, **more, packing={"length": 128, "rows_per_step": 6, "window_steps": 3})
    resolution = RowColumnResolution(size=28, longest=56)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"resolution": resolution})})
    whole, spoilt = [], []
    for found in (whole, spoilt):
        loader = Loader(recipe)
        found += loader.step(0)
        loader.close()
        monkeypatch.setattr("data_pipeline.stream.making.decode", broken)
    for one, other in zip(whole, spoilt, strict=True):
        assert np.array_equal(one.segments, other.segments) and np.array_equal(one.vision.grids, other.vision.grids)
        assert (other.weights == 0).all() and all("filler" in info for row in other.rows for info in row.samples)


def test_a_tokenizer_without_names_of_tiles_is_refused_at_start(folder: Path, world: Path, tmp_path: Path) -> None:
    known = Geometry(14, 1, "row_column", size=28, longest=196)
    with pytest.raises(
        UserError, match=r"no single token for '<row_1_col_7>', '<row_2_col_7>', '<row_3_col_7>', \.\.\."
    ):
        Chat(str(folder), TemplateConfig(preset="smolvlm")).require_marks(known)
    plain = Chat(str(world / "tokens"), TemplateConfig())
    with pytest.raises(UserError, match="no single token for '<fake_token_around_image>'"):
        plain.require_marks(known)
    plain.require_marks(Geometry(14, 1, "square", size=224))
    with pytest.raises(ValueError, match="no tokens for pictures of rows and columns"):
        widen(plain.encode(Conversation("a", None, {}), 1), [(50, 50)], known)
    made = json.loads((folder / "tokenizer.json").read_text())
    merges = [merge for merge in made["model"]["merges"] if "".join(merge) != "\u010a\u010a"]
    assert len(merges) < len(made["model"]["merges"])
    made["model"]["merges"] = [m for m in merges if "\u010a\u010a" not in m]
    (tmp_path / "tokenizer.json").write_text(json.dumps(made))
    with pytest.raises(UserError, match=r"no single token for '\\n\\n'"):
        Chat(str(tmp_path), TemplateConfig(preset="smolvlm")).require_marks(
            Geometry(14, 1, "row_column", size=28, longest=56)
        )
