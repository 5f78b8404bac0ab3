"""cluster/cost against real engines, for a tiny model of every family: states, activations, traffic, FLOPs.

`make test` measures each family under one or two layouts; LOOKSAY_ALL_LAYOUTS=1 takes every family under every layout,
everything trained and a frozen encoder with half of the decoder.
"""

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cluster.cost.activations import Numbers
from cluster.cost.load import Load
from cluster.cost.parts import Model, make_model
from cluster.cost.work import passes, useful_of
from configs.encoders import Cnn
from configs.load import load_recipe
from configs.model import ModelConfig
from data_pipeline.stream.collate import collate
from data_pipeline.stream.geometry import geometry_of
from pretrain.loads import load_of
from pretrain.mesh import alone
from pretrain.model.inputs import to_inputs
from pretrain.model.vlm import make_model as build
from pretrain.row_loads import assumed_rows, loads_of_rows
from pretrain.shapes import shapes_of
from pretrain.stages import apply_stage
from tests.cluster.cost_cases import family_batches, stage_of
from tests.cluster.cost_families import OTHERS, families
from tests.support.pool import Pool
from tests.support.worlds import PAD, VOCABULARY, sample

CASES = "tests.cluster.cost_cases:"
LAYOUTS = [  # ranks, TP, ZeRO, weights, part of the model trained
    (ranks, tp, zero, precision, part)
    for part in (False, True)
    for ranks, tp in ((2, 1), (4, 2))
    for zero, precision in ((3, "bf16"), (0, "fp32"), (1, "bf16"))
]
NAMES = (
    "blip2", "cogvlm", "idefics3", "internvl", "internvl_6b", "llava1", "llava_next", "paligemma", "qwen2_5_vl", "qwen2_vl",
    "qwen_vl", "smolvlm", "yi_vl",
)  # fmt: skip
ALL = bool(os.environ.get("LOOKSAY_ALL_LAYOUTS"))
CHOSEN = [
    (name, layout)
    for number, name in enumerate((*NAMES, *OTHERS))
    for layout in (LAYOUTS if ALL else [LAYOUTS[(5 * number) % len(LAYOUTS)]])
]


@pytest.fixture(scope="module")
def trees(transformers: Any) -> dict[str, dict[str, Any]]:
    made = families(transformers)
    assert sorted(made) == sorted((*NAMES, *OTHERS))
    return made


@pytest.mark.parametrize("tp", [1, 2])
def test_every_parameter_is_listed_by_name_and_shape(trees: dict[str, Any], pool: Pool, tp: int) -> None:
    found = pool.run(CASES + "names", tp, tp, configs=list(trees.values()))[0]
    for name, (real, listed, _) in zip(trees, found, strict=True):
        assert real == listed, name


@pytest.mark.parametrize(("name", "layout"), CHOSEN)
def test_states_activations_and_traffic(
    trees: dict[str, Any], pool: Pool, name: str, layout: tuple[int, int, int, str, bool]
) -> None:
    ranks, tp, zero, precision, part = layout
    arguments = {"tree": trees[name], "zero": zero, "precision": precision, "part": part}
    for found in pool.run(CASES + "of_family", ranks, tp, **arguments):
        for held, wanted in found["states"]:
            assert held == wanted
        assert found["gathered"][0] == found["gathered"][1]
        for saved, estimated in found["activations"]:
            assert saved == pytest.approx(estimated, rel=1e-9)
        sent, estimated = found["sent"]
        assert sent == estimated


# ---- FLOPs ------------------------------------------------------------------------------------------------------


def _pairs(q: Any, k: Any, causal: bool) -> int:
    return int(q[-2] * (q[-2] + 1) // 2 if causal else q[-2] * k[-2])


def _forward(q: Any, k: Any, v: Any, dropout: float = 0.0, causal: bool = False, *_: Any, **__: Any) -> int:
    return 4 * int(q[0] * q[1] * q[3]) * _pairs(q, k, causal)


def _backward(
    g: Any, q: Any, k: Any, v: Any, o: Any, lse: Any, dropout: float = 0.0, causal: bool = False, *_: Any, **__: Any
) -> int:
    return 10 * int(q[0] * q[1] * q[3]) * _pairs(q, k, causal)


aten = torch.ops.aten
ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
}
"""torch counts no attention on a CPU; two products forward, five backward, half of the pairs under a causal mask."""


@pytest.mark.parametrize("part", [False, True], ids=["all", "part"])
def test_flops_of_every_part_are_those_that_torch_counts(trees: dict[str, Any], part: bool) -> None:
    """Exactly, in forward by part and in backward."""
    with alone() as mesh:
        for name, tree in trees.items():
            config = ModelConfig.model_validate(tree)
            train = stage_of(config, part)
            net = build(config, VOCABULARY, mesh, "fp32", "fp32", 0)
            apply_stage(net, train)
            model = make_model(config, VOCABULARY, 1, train)
            for batch in family_batches(mesh, config)[: 1 if part else 2]:
                with FlopCounterMode(display=False, custom_mapping=ATTENTION) as ahead:
                    out = net(to_inputs(batch, mesh.device))
                with FlopCounterMode(display=False, custom_mapping=ATTENTION) as back:
                    out.loss_sum.backward()
                wanted, backward = _estimated(model, load_of(batch, config))
                counts = ahead.get_flop_counts()
                for module in ("encoder", "projector"):
                    counted = sum(counts.get(f"VisionLanguageModel.{module}", {}).values())
                    if counted:  # a CNN is counted under its own layers
                        assert wanted[module] == counted, (name, module)
                    if counted and batch.vision.pictures and batch.vision.order is None:
                        assert _useful(model, module, load_of(batch, config)) == 3 * counted, (name, module)
                assert sum(wanted.values()) == ahead.get_total_flops(), name
                assert backward == back.get_total_flops(), name


def _estimated(model: Model, load: Load) -> tuple[dict[str, float], float]:
    """FLOPs forward by part, and backward."""
    forward: dict[str, float] = {}
    backward = 0.0
    for one in passes(model, load, Numbers(4, 4, 4, fused_norm=False)):
        forward[one.part] = forward.get(one.part, 0.0) + one.count * sum(k.matrix + k.attention for k in one.forward)
        backward += one.count * sum(k.matrix + k.attention for k in one.backward)
    return forward, backward


def _useful(model: Model, part: str, load: Load) -> float:
    """FLOPs that count for MFU: where nothing is padding and nothing frozen, three times those of forward."""
    modules = [module for module in model.modules if module.name.split(".")[0] == part]
    return sum(useful_of(op, module, load, 0) for module in modules for op in module.ops)


# ---- rows -------------------------------------------------------------------------------------------------------


def test_assumed_and_planned_rows_are_what_a_batch_carries(trees: dict[str, Any]) -> None:
    """Without pixels and tokens: the same counts as of the collated row, for every family."""
    tiny = load_recipe("tiny_train")
    for name, tree in trees.items():
        config = ModelConfig.model_validate(tree)
        geometry, cnn = geometry_of(config), isinstance(config.encoder, Cnn)
        one = sample(1, ((100, 60),), 12)
        laid = one.laid_out(geometry)
        length = 2 * laid.tokens + laid.text_tokens // 2
        batch = collate([[one, sample(2, ((100, 60),), 12)]], length, geometry, PAD, cnn=cnn)
        wanted = load_of(batch, config)
        packing = tiny.data.packing.model_copy(update={"length": length})  # type: ignore[union-attr]
        recipe = tiny.model_copy(
            update={"model": config, "data": tiny.data.model_copy(update={"packing": packing})}  # type: ignore[union-attr]
        )
        assumed = assumed_rows(recipe, (100, 60), laid.text_tokens, laid.label_tokens).mean  # type: ignore[arg-type]
        row = SimpleNamespace(
            patches=np.array([laid.patches] * 2),
            images=np.array([1, 1]),
            visual=np.array([laid.visual_tokens] * 2),
            tokens=np.array([laid.tokens] * 2),
            labels=np.array([laid.label_tokens] * 2),
        )
        planned = loads_of_rows(recipe, [row], "a test").mean  # type: ignore[arg-type]
        assert replace(assumed, inner=0) == replace(wanted, inner=0), name
        # A plan knows neither the shape of a native picture nor which of its positions are newlines.
        unknown: dict[str, Any] = {"visual": 0, "newlines": 0, "inner": 0, "windows": None, "resized": False}
        assert replace(planned, **unknown) == replace(wanted, **unknown), name
        assert planned.visual == wanted.visual + wanted.newlines, name
        for load in (assumed, planned) if config.decoder.expert else ():
            assert load.inner == pytest.approx(wanted.inner, rel=0.1), name


def test_shapes_are_those_of_a_forward_pass(trees: dict[str, Any]) -> None:
    """Of a sample with a picture and of one without, after each part."""
    with alone() as mesh, torch.no_grad():
        for name, tree in trees.items():
            config = ModelConfig.model_validate(tree)
            geometry, cnn = geometry_of(config), isinstance(config.encoder, Cnn)
            net = build(config, VOCABULARY, mesh, "fp32", "fp32", 0)
            for pictures in (((100, 60),), ()):
                one = sample(1, pictures, 12)
                laid = one.laid_out(geometry)
                batch = collate([[one]], laid.tokens, geometry, PAD, cnn=cnn)
                inputs = to_inputs(batch, mesh.device)
                features = net.encode(inputs)
                hidden = net.hidden(inputs)
                found = {
                    "encoder": features,
                    "projector": net.projector(features, max(1, inputs.views)),
                    "decoder": hidden,
                    "logits of learned tokens": net.decoder.logits(hidden[inputs.picked]),
                }
                shapes = shapes_of(config, pictures, laid.text_tokens, batch.label_tokens, VOCABULARY)
                for part, tensor in found.items():
                    assert shapes[part] == list(tensor.shape), (name, part, pictures)


# ---- inference --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tp", [1, 2])
def test_a_cache_holds_what_is_said(trees: dict[str, Any], pool: Pool, tp: int) -> None:
    for found in pool.run(CASES + "cached", tp, tp, configs=list(trees.values())):
        for name, (held, wanted) in zip(trees, found, strict=True):
            assert held == wanted, name
