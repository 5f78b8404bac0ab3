"""Rows to a batch: exactly the planned counts, targets that stay inside their segment."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.stream.batch import NO_TARGET, Batch
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.collate import Ready, collate, widen
from data_pipeline.stream.images import decode
from data_pipeline.stream.layout import Geometry, grid_of, layout
from data_pipeline.stream.read.dataset import Dataset

LENGTH = 128
GEOMETRY = {"vit": Geometry(14, 2, "native", 1, 8), "cnn": Geometry(28, 1, "native", 1, 8)}


def ready(world: Path, chat: Chat, name: str, index: int) -> Ready:
    dataset = Dataset(str(world / name))
    stored = dataset.read(index)
    sizes = dataset.sizes(index)
    encoded = chat.encode(stored.conversation, len(sizes))
    return Ready(encoded, sizes, images=[decode(data) for data in stored.images], info={"key": dataset.key(index)})


@pytest.fixture(scope="module")
def rows(world: Path, chat: Chat) -> list[list[Ready]]:
    """Three rows of captions and conversations, and a dummy."""
    names = [("captions", n) for n in range(5)] + [("talks", n) for n in range(4)]
    made = [ready(world, chat, name, n) for name, n in names]
    return [made[:3], made[3:5], [], made[5:7]]


def with_features(rows: list[list[Ready]], geometry: Geometry) -> list[list[Ready]]:
    out = []
    for number, row in enumerate(rows):
        out.append([])
        for sample in row:
            grids = [grid_of(w, h, geometry) for w, h in sample.sizes]
            features = [np.full((r * c, 5), 10 * number + k, np.float16) for k, (r, c) in enumerate(grids)]
            out[-1].append(replace(sample, images=None, features=features))
    return out


def make(rows: list[list[Ready]], kind: str, chat: Chat) -> tuple[Batch, Geometry]:
    geometry = GEOMETRY["cnn" if kind == "features" else kind]
    given = with_features(rows, geometry) if kind == "features" else rows
    return collate(given, LENGTH, geometry, chat.pad_id, cnn=kind != "vit", cached=kind == "features"), geometry


@pytest.mark.parametrize("kind", ["vit", "cnn", "features"])
def test_counts_are_the_planned_ones(kind: str, rows: list[list[Ready]], chat: Chat) -> None:
    batch, geometry = make(rows, kind, chat)
    samples = [sample for row in rows for sample in row]
    planned = [layout(tuple(s.sizes), s.encoded.text_tokens, s.encoded.label_tokens, geometry) for s in samples]
    assert batch.ids.shape == batch.targets.shape == batch.weights.shape == (4, LENGTH)
    assert (batch.segments[:, 2] - batch.segments[:, 0]).tolist() == [p.tokens for p in planned]
    assert batch.label_tokens == sum(p.label_tokens for p in planned) == batch.denominator == batch.weights.sum()
    assert batch.real_tokens == sum(p.tokens for p in planned)
    vision, visual = batch.vision, sum(p.visual_tokens for p in planned)
    assert len(vision.slots) == visual and (np.diff(vision.slots) > 0).all()
    assert (batch.ids.reshape(-1)[vision.slots] == chat.image_id).all()
    assert (batch.ids == chat.image_id).sum() == visual
    assert [tuple(g) for g in vision.grids] == [g for p in planned for g in p.grids]
    if kind == "features":
        assert vision.images is None and vision.patches is None and vision.features is not None
        assert vision.features.shape == (visual, 5)
    elif kind == "cnn":
        assert vision.images is not None and vision.patches is None
        assert [i.shape for i in vision.images] == [(r * 28, c * 28, 3) for r, c in vision.grids]
    else:
        assert vision.patches is not None and vision.patch_segments is not None
        assert vision.patches.shape == (visual * 4, 3 * 14 * 14)
        assert np.diff(vision.patch_segments).tolist() == [4 * r * c for r, c in vision.grids]
    for info, row in zip(batch.rows, rows, strict=True):
        assert info.labels == sum(s.encoded.label_tokens for s in row)
        assert [s["key"] for s in info.samples] == [(s.info or {})["key"] for s in row]


def test_targets_are_the_next_token_of_the_same_segment(rows: list[list[Ready]], chat: Chat) -> None:
    batch, geometry = make(rows, "vit", chat)
    ids, targets = batch.ids.reshape(-1), batch.targets.reshape(-1)
    samples = [sample for row in rows for sample in row]
    expected = np.full(ids.shape, NO_TARGET)
    for (start, prefix, end), sample in zip(batch.segments, samples, strict=True):
        assert prefix == start and ids[start] == chat.tokenizer.token_to_id(chat.template.bos)
        wide = widen(sample.encoded, sample.sizes, geometry)
        for t in range(start, end - 1):
            if wide.labels[t + 1 - start]:
                expected[t] = ids[t + 1]
        assert targets[end - 1] == NO_TARGET, "a segment's last token predicts the first of the next"
        assert start == 0 or targets[start - 1] == NO_TARGET, "the first token of a segment is somebody's target"
    assert np.array_equal(targets, expected)
    assert not np.isin(targets, list(chat.special_ids - {chat.end_id})).any()


def test_positions_restart_in_every_segment(rows: list[list[Ready]], chat: Chat) -> None:
    batch, _ = make(rows, "vit", chat)
    assert batch.positions.shape == (3, 4, LENGTH)
    for axis in batch.positions:
        for start, _, end in batch.segments:
            assert np.array_equal(axis.reshape(-1)[start:end], np.arange(end - start))


def test_segments_do_not_overlap_and_the_rest_is_padding(rows: list[list[Ready]], chat: Chat) -> None:
    batch, _ = make(rows, "vit", chat)
    covered = np.zeros(batch.ids.size, int)
    for start, _, end in batch.segments:
        assert start // LENGTH == (end - 1) // LENGTH, "a segment runs over the end of its row"
        covered[start:end] += 1
    assert set(covered) == {0, 1}
    assert (batch.ids.reshape(-1)[covered == 0] == chat.pad_id).all()
    assert (batch.weights.reshape(-1)[covered == 0] == 0).all()
    assert (batch.ids[2] == chat.pad_id).all(), "the dummy row is not empty"


def test_pictures_stand_in_the_order_of_their_tokens(rows: list[list[Ready]], chat: Chat) -> None:
    batch, _ = make(rows, "cnn", chat)
    pictures = [picture for row in rows for sample in row for picture in sample.images or ()]
    assert batch.vision.images is not None
    for stored, given in zip(pictures, batch.vision.images, strict=True):
        if stored.shape == given.shape:
            assert np.array_equal(stored, given)
    features, _ = make(rows, "features", chat)
    assert features.vision.features is not None
    owner = features.vision.slots // LENGTH
    assert (features.vision.features[:, 0] // 10 == owner).all(), "features of one row stand in another"


def test_a_filler_has_the_shape_and_no_target(rows: list[list[Ready]], chat: Chat) -> None:
    spoiled = [[replace(rows[0][0], learn=False), *rows[0][1:]], *rows[1:]]
    batch, _ = make(spoiled, "vit", chat)
    whole, _ = make(rows, "vit", chat)
    assert np.array_equal(batch.segments, whole.segments)
    start, _, end = batch.segments[0]
    assert (batch.targets.reshape(-1)[start:end] == NO_TARGET).all()
    assert np.array_equal(batch.targets.reshape(-1)[end:], whole.targets.reshape(-1)[end:])


def test_no_picture_at_all_gives_empty_arrays(world: Path, chat: Chat) -> None:
    from data_pipeline.sample import Conversation

    text = Ready(chat.encode(Conversation("only text", None, {}), 0), [], images=[])
    for cnn in (True, False):
        vision = collate([[text]], LENGTH, GEOMETRY["vit"], chat.pad_id, cnn=cnn).vision
        assert vision.slots.shape == (0,) and vision.grids.shape == (0, 2)
        assert vision.images == [] if cnn else vision.patches.shape == (0, 588)  # type: ignore[union-attr]
    vision = collate([[text]], LENGTH, GEOMETRY["cnn"], chat.pad_id, cnn=True, cached=True).vision
    assert vision.features is not None and len(vision.features) == 0


def test_what_does_not_fit_is_refused(rows: list[list[Ready]], chat: Chat) -> None:
    with pytest.raises(ValueError, match="of a row of 16"):
        collate([rows[0]], 16, GEOMETRY["vit"], chat.pad_id, cnn=False)
    with pytest.raises(ValueError, match="image slots for"):
        collate([[replace(rows[0][0], sizes=[])]], LENGTH, GEOMETRY["vit"], chat.pad_id, cnn=False)
    short = with_features(rows, GEOMETRY["cnn"])[0][0]
    short = replace(short, features=[f[:-1] for f in short.features or ()])
    with pytest.raises(ValueError, match="cached features for"):
        collate([[short]], LENGTH, GEOMETRY["cnn"], chat.pad_id, cnn=True)
