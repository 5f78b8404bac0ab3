"""A CNN's features as one token of each view: the mean of its cells, planned, packed, cached and trained as such."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from configs.encoders import Cnn, ConvNext, EfficientNetLite0, ResNet
from configs.model import ModelConfig
from data_pipeline.stream.collate import collate
from data_pipeline.stream.geometry import geometry_of
from data_pipeline.stream.images import decode, views_of
from data_pipeline.stream.layout import picture_layout
from data_pipeline.stream.loader import Loader
from data_pipeline.stream.read.dataset import Dataset
from pretrain.features import FeatureCache, features_fingerprint
from pretrain.mesh import alone
from pretrain.model.frozen import load_cnn
from pretrain.model.inputs import to_inputs
from pretrain.model.vlm import make_model
from tests.pretrain.squares import MODELS, recipe_of
from tests.support.pool import Pool
from tests.support.worlds import PAD, VOCABULARY, sample

HOST = torch.device("cpu")
NETWORKS: dict[str, Cnn] = {
    "efficientnet": EfficientNetLite0(),
    "resnet": ResNet(depths=(1, 1, 1), widths=(16, 16, 24), stem=8),
    "convnext": ConvNext(depths=(1, 1, 1), widths=(12, 16, 24)),
}
TREE: dict[str, Any] = {
    "encoder": {"type": "resnet", "depths": [1, 1, 1], "widths": [16, 16, 24], "stem": 8, "pool": "mean"},
    "resolution": {"type": "native", "max_tokens": 12},
    "projector": {"type": "mlp", "norm": True},
    "decoder": {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "mlp_width": 48},
    "init_std": 0.1,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_token_is_the_mean_of_the_grid(name: str) -> None:
    config, random = NETWORKS[name], np.random.default_rng(0)
    cell = config.patch
    pictures = [random.integers(0, 256, (r * cell, c * cell, 3), dtype=np.uint8) for r, c in ((1, 2), (3, 2), (1, 2))]
    grid = load_cnn(config, 0, HOST).encode(pictures, HOST)
    pooled = load_cnn(config.model_copy(update={"pool": "mean"}), 0, HOST).encode(pictures, HOST)
    for cells, token in zip(grid, pooled, strict=True):
        assert token.shape == (1, cells.shape[1]) and len(cells) > 1
        assert torch.equal(token[0], cells.mean(0)) and not torch.equal(token[0], cells[0])


def test_settings_without_a_pool_are_as_before() -> None:
    """Cached features are kept under them: nothing new in the name of a network that does not pool."""
    assert EfficientNetLite0().model_dump() == {"type": "efficientnet_lite0", "weights": None, "feature": "head"}
    assert list(EfficientNetLite0().model_dump()) == ["type", "weights", "feature"]
    plain, pooled = (
        ModelConfig.model_validate({**TREE, "encoder": {**TREE["encoder"], "pool": p}}) for p in ("none", "mean")
    )
    names = {features_fingerprint(m.encoder, geometry_of(m)) for m in (plain, pooled)}  # type: ignore[arg-type]
    assert len(names) == 2


# ---- packing -----------------------------------------------------------------------------------------------------

ROW = (((150, 61),), (), ((47, 140), (64, 64)), ((16, 16),), ((33, 90), (90, 33), (64, 64)))
"""Pictures (width, height) of each sample of a row."""


@pytest.mark.parametrize("pool", ["mean", "none"])
@pytest.mark.parametrize(
    "resolution", [{"type": "native", "max_tokens": 12}, {"type": "tiles", "size": 32, "max_tiles": 4}]
)
def test_packed_is_unpacked_and_planned_is_real(pool: str, resolution: dict[str, Any]) -> None:
    """fp32, loss and gradients of a row against those of its samples alone: measured 1e-6 relative; a picture of another
    sample changes them by 1e-2."""
    config = ModelConfig.model_validate(
        {**TREE, "encoder": {**TREE["encoder"], "pool": pool}, "resolution": resolution}
    )
    geometry = geometry_of(config)
    row = [sample(n, pictures) for n, pictures in enumerate(ROW)]
    planned = [one.laid_out(geometry) for one in row]
    views = sum(len(picture.views) for one in planned for picture in one.pictures)
    with alone() as mesh:
        net = make_model(config, VOCABULARY, mesh, "fp32", "fp32", 3)

        def found(rows: list[Any], length: int) -> tuple[float, list[torch.Tensor], int]:
            batch = collate([rows], length, geometry, PAD, cnn=True)
            inputs = to_inputs(batch, mesh.device)
            made = len(net.encode(inputs))
            assert made == max(1, len(batch.vision.slots)) and batch.real_tokens == sum(
                r.laid_out(geometry).tokens for r in rows
            )
            net.zero_grad()
            out = net(inputs)
            out.loss_sum.backward()
            return float(out.loss_sum), [p.grad.clone() for p in net.parameters() if p.grad is not None], made

        loss, gradients, made = found(row, 256)
        single = [found([one], 96) for one in row]
    assert made == sum(one.visual_tokens for one in planned)
    assert pool == "none" or made == views
    assert loss == pytest.approx(sum(one[0] for one in single), rel=1e-5)
    for number, gradient in enumerate(gradients):
        total = torch.stack([one[1][number] for one in single]).sum(0)
        assert float((gradient - total).norm()) <= 1e-5 * float(total.norm()) + 1e-7


def test_collated_counts_are_the_planned_ones(squares: Path) -> None:
    made = Loader(recipe_of(str(squares), "pooled"))
    for step in range(3):
        planned, batches = made.plan.step(step), made.build(step)
        infos = [info for batch in batches for info in batch.rows]
        for info, row in zip(infos, planned.rows(), strict=True):
            assert (info.tokens, info.patches, info.labels) == (row.tokens.sum(), row.patches.sum(), row.labels.sum())
            assert info.visual == row.visual.sum() == row.images.sum() < row.patches.sum()
        for batch in batches:
            assert len(batch.vision.slots) == len(batch.vision.grids) == batch.vision.pictures


def test_cached_features_are_computed_ones(squares: Path) -> None:
    recipe = recipe_of(str(squares), "pooled")
    dataset, geometry, encoder = Dataset(str(squares / "asked")), geometry_of(recipe.model), recipe.model.encoder
    assert isinstance(encoder, Cnn)
    with alone() as mesh:
        cache = FeatureCache(recipe.model, [dataset])
        cache.fill(mesh, progress=False)
        net = load_cnn(encoder, 0, mesh.device)
        for index in range(0, len(dataset), 5):
            picture, size = decode(dataset.read(index).images[0]), dataset.sizes(index)[0]
            (wanted,) = net.encode(views_of(picture, picture_layout(*size, geometry), geometry.cell), mesh.device)
            (found,) = cache.get(0, index)
            assert found.shape == (1, 24)
            np.testing.assert_allclose(
                found, wanted.to(torch.float16).numpy(), rtol=2e-3, atol=1e-3
            )  # a batch rounds otherwise


# ---- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "ranks", "zero", "cached"), [("resnet", 1, 0, False), ("resnet", 2, 3, False), ("pooled", 2, 3, True)]
)
def test_two_steps(pool: Pool, squares: Path, tmp_path: Path, kind: str, ranks: int, zero: int, cached: bool) -> None:
    """Trained with pixels under ZeRO-3 too, where ranks call the network for unequal numbers of sizes."""
    parts: dict[str, Any] = {
        "model": MODELS[kind],
        "stage": {"steps": 2, "train": {"projector": 0.01, "decoder": 0.01}},
        "parallel": {"zero": zero},
        "data": {"cache_features": cached},
    }
    cases = "tests.pretrain.training_cases:trained"
    for found in pool.run(cases, ranks, world=str(squares), run=str(tmp_path / "run"), parts=parts):
        assert found["refused"] is None and found["did"] == 2
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2 and np.isfinite(losses).all() and losses[0] != losses[1]


# ---- what cannot work --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"projector": {"type": "pixel_shuffle_mlp"}}, "projector pixel_shuffle_mlp, which joins neighbouring cells"),
        ({"projector": {"type": "patch_merger"}}, "set projector to linear or mlp"),
        ({"resolution": {"type": "anyres", "size": 32}}, "resolution anyres, which puts tokens between rows"),
        (
            {"resolution": {"type": "row_column", "size": 32, "longest": 64}},
            "set resolution to native, square or tiles",
        ),
        (
            {"decoder": {**TREE["decoder"], "positions": "mrope", "mrope_sections": [1, 1, 2]}},
            "decoder.positions mrope, which counts rows and columns",
        ),
        ({"decoder": {**TREE["decoder"], "positions": "shared"}}, "set it to rope or learned"),
        ({"decoder": {**TREE["decoder"], "expert": True}}, "decoder.expert, which serves all tokens"),
        (
            {"resolution": {"type": "square", "size": 32}, "projector": {"type": "resampler", "queries": 4}},
            "vision transformer",
        ),
        ({"encoder": {**TREE["encoder"], "widths": [16, 16]}}, "must have one entry a stage each"),
        ({"encoder": {**TREE["encoder"], "widths": [16, 18, 24]}}, "must be multiples of 4"),
        ({"encoder": {**TREE["encoder"], "depths": [1, 0, 1]}}, "must be 1 or more in each stage"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], says: str) -> None:
    ModelConfig.model_validate(TREE)
    with pytest.raises(ValidationError, match=says):
        ModelConfig.model_validate({**TREE, **changes})
