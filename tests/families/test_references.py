"""The reference models themselves: causal, moved by pictures, named and shaped as published, every tensor used."""

import math
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.families import reference_cogvlm, reference_llava1, reference_qwen_vl, reference_yi_vl
from tests.families.reference_parts import IMAGE

MODULES = {
    "cogvlm": reference_cogvlm,
    "qwen_vl": reference_qwen_vl,
    "yi_vl": reference_yi_vl,
    "llava1": reference_llava1,
}
TOKENS = {"cogvlm": 11, "qwen_vl": 4, "yi_vl": 9, "llava1": 9}
SIDES = {"cogvlm": 42, "qwen_vl": 56, "yi_vl": 42, "llava1": 42}
# Well-known entries of the published checkpoints.
KNOWN: dict[str, dict[str, tuple[int, ...]]] = {
    "cogvlm": {
        "model.embed_tokens.weight": (32000, 4096),
        "model.layers.0.self_attn.vision_expert_query_key_value.weight": (12288, 4096),
        "model.layers.0.self_attn.language_expert_query_key_value.weight": (12288, 4096),
        "model.layers.31.self_attn.vision_expert_dense.weight": (4096, 4096),
        "model.layers.31.mlp.vision_mlp.down_proj.weight": (4096, 11008),
        "model.layers.31.mlp.language_mlp.gate_proj.weight": (11008, 4096),
        "model.layers.31.input_layernorm.weight": (4096,),
        "model.norm.weight": (4096,),
        "model.vision.boi": (1, 1, 4096),
        "model.vision.eoi": (1, 1, 4096),
        "model.vision.linear_proj.linear_proj.weight": (4096, 1792),
        "model.vision.linear_proj.norm1.bias": (4096,),
        "model.vision.linear_proj.dense_h_to_4h.weight": (11008, 4096),
        "model.vision.linear_proj.gate_proj.weight": (11008, 4096),
        "model.vision.linear_proj.dense_4h_to_h.weight": (4096, 11008),
        "model.vision.patch_embedding.cls_embedding": (1, 1792),
        "model.vision.patch_embedding.position_embedding.weight": (1226, 1792),
        "model.vision.patch_embedding.proj.weight": (1792, 3, 14, 14),
        "model.vision.patch_embedding.proj.bias": (1792,),
        "model.vision.transformer.layers.62.attention.query_key_value.weight": (5376, 1792),
        "model.vision.transformer.layers.62.attention.dense.bias": (1792,),
        "model.vision.transformer.layers.62.mlp.fc1.weight": (15360, 1792),
        "model.vision.transformer.layers.62.mlp.fc2.weight": (1792, 15360),
        "model.vision.transformer.layers.62.post_attention_layernorm.bias": (1792,),
        "lm_head.weight": (32000, 4096),
    },
    "qwen_vl": {
        "transformer.wte.weight": (151936, 4096),
        "transformer.h.0.attn.c_attn.weight": (12288, 4096),
        "transformer.h.0.attn.c_attn.bias": (12288,),
        "transformer.h.31.attn.c_proj.weight": (4096, 4096),
        "transformer.h.31.mlp.w1.weight": (11008, 4096),
        "transformer.h.31.mlp.w2.weight": (11008, 4096),
        "transformer.h.31.mlp.c_proj.weight": (4096, 11008),
        "transformer.h.31.ln_2.weight": (4096,),
        "transformer.ln_f.weight": (4096,),
        "transformer.visual.conv1.weight": (1664, 3, 14, 14),
        "transformer.visual.positional_embedding": (256, 1664),
        "transformer.visual.ln_pre.weight": (1664,),
        "transformer.visual.transformer.resblocks.47.attn.in_proj.weight": (4992, 1664),
        "transformer.visual.transformer.resblocks.47.attn.out_proj.bias": (1664,),
        "transformer.visual.transformer.resblocks.47.mlp.c_fc.weight": (8192, 1664),
        "transformer.visual.transformer.resblocks.47.mlp.c_proj.weight": (1664, 8192),
        "transformer.visual.attn_pool.query": (256, 4096),
        "transformer.visual.attn_pool.pos_embed": (256, 4096),
        "transformer.visual.attn_pool.kv_proj.weight": (4096, 1664),
        "transformer.visual.attn_pool.attn.in_proj_weight": (12288, 4096),
        "transformer.visual.attn_pool.attn.in_proj_bias": (12288,),
        "transformer.visual.attn_pool.attn.out_proj.weight": (4096, 4096),
        "transformer.visual.attn_pool.ln_kv.bias": (4096,),
        "transformer.visual.ln_post.weight": (4096,),
        "transformer.visual.proj": (4096, 4096),
        "lm_head.weight": (151936, 4096),
    },
    "yi_vl": {
        "model.embed_tokens.weight": (64000, 4096),
        "model.layers.31.self_attn.q_proj.weight": (4096, 4096),
        "model.layers.31.self_attn.k_proj.weight": (512, 4096),
        "model.layers.31.mlp.down_proj.weight": (4096, 11008),
        "model.mm_projector.0.weight": (4096, 1280),
        "model.mm_projector.1.bias": (4096,),
        "model.mm_projector.3.weight": (4096, 4096),
        "model.mm_projector.4.weight": (4096,),
        "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding": (1280,),
        "model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight": (1025, 1280),
        "model.vision_tower.vision_tower.vision_model.encoder.layers.31.self_attn.k_proj.bias": (1280,),
        "model.vision_tower.vision_tower.vision_model.encoder.layers.31.mlp.fc1.weight": (5120, 1280),
        "lm_head.weight": (64000, 4096),
    },
    "llava1": {
        "model.embed_tokens.weight": (32003, 4096),
        "model.layers.31.self_attn.k_proj.weight": (4096, 4096),
        "model.layers.31.post_attention_layernorm.weight": (4096,),
        "model.norm.weight": (4096,),
        "model.mm_projector.weight": (4096, 1024),
        "model.mm_projector.bias": (4096,),
        "model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        "model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight": (257, 1024),
        "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight": (1024,),
        "model.vision_tower.vision_tower.vision_model.encoder.layers.23.layer_norm1.weight": (1024,),
        "model.vision_tower.vision_tower.vision_model.post_layernorm.bias": (1024,),
        "lm_head.weight": (32003, 4096),
    },
}
# Parameters in billions: the totals, and of Qwen-VL what table 1 of its paper says of the tower, adapter and decoder.
BILLIONS = {"cogvlm": 17.6, "qwen_vl": 9.7, "yi_vl": 6.7, "llava1": 7.0}
QWEN_PARTS = [1.9, 0.08, 7.7]
# The first logits of the last token of `sample_of`, seed 5.
NOTED = {"cogvlm": [0.5155, 1.3583, 0.5280, 0.5670], "qwen_vl": [-0.4353, 0.3635, 0.9231, -0.7083]}


@pytest.fixture(params=MODULES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def module(name: str) -> ModuleType:
    return MODULES[name]


@pytest.fixture
def model(module: ModuleType) -> nn.Module:
    return module.build(module.TINY, 5)


def sample_of(name: str, pictures: int = 2) -> tuple[list[int], list[Tensor]]:
    """Text, a picture, text, a picture, text."""
    generator = torch.Generator().manual_seed(11)
    text = torch.randint(0, IMAGE, (pictures + 1, 4), generator=generator).tolist()
    ids = text[0]
    for words in text[1:]:
        ids = ids + [IMAGE] * TOKENS[name] + words
    return ids, [torch.randn(3, SIDES[name], SIDES[name], generator=generator) for _ in range(pictures)]


@torch.no_grad()
def test_later_tokens_and_pictures_do_not_reach_back(name: str, module: ModuleType, model: nn.Module) -> None:
    ids, pictures = sample_of(name)
    before = module.logits(model, ids, pictures)
    assert before.shape == (len(ids), module.TINY["vocab_size"]) and before.isfinite().all()
    after = module.logits(model, ids[:-1] + [(ids[-1] + 1) % IMAGE], pictures)
    assert torch.equal(before[:-1], after[:-1]) and not torch.allclose(before[-1], after[-1], atol=1e-2)
    second = 8 + TOKENS[name]
    after = module.logits(model, ids, [pictures[0], pictures[1].flip(1)])
    assert torch.equal(before[:second], after[:second])
    assert not torch.allclose(before[-1], after[-1], atol=1e-2)


@torch.no_grad()
def test_a_place_in_the_picture_counts(name: str, module: ModuleType, model: nn.Module) -> None:
    """Two patches exchanged."""
    ids, (picture, _) = sample_of(name)
    ids = ids[: 4 + TOKENS[name] + 4]
    exchanged = picture.clone()
    exchanged[:, :14, :14], exchanged[:, 14:28, 28:42] = picture[:, 14:28, 28:42], picture[:, :14, :14]
    before, after = (module.logits(model, ids, [pixels])[-1] for pixels in (picture, exchanged))
    assert not torch.allclose(before, after, atol=1e-2)


@torch.no_grad()
def test_greedy_is_the_likeliest_of_the_logits(name: str, module: ModuleType, model: nn.Module) -> None:
    ids, pictures = sample_of(name)
    told = module.greedy(model, ids, pictures, 5)
    assert len(told) == 5 and IMAGE not in told
    read = module.logits(model, ids + told, pictures)[len(ids) - 1 : -1].argmax(-1)
    assert told == read.tolist()


def test_a_wrong_number_of_image_tokens_is_an_error(name: str, module: ModuleType, model: nn.Module) -> None:
    ids, pictures = sample_of(name)
    with pytest.raises(ValueError, match="image tokens"):
        module.logits(model, ids, pictures[:1])


def test_seeds(name: str, module: ModuleType) -> None:
    first, same, other = (module.build(module.TINY, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)
    assert all(value.dtype == torch.float32 and value.std() > 0.05 for value in first.values())


def test_published_names_and_shapes(name: str, module: ModuleType) -> None:
    with torch.device("meta"):
        model = module.make(module.PUBLISHED)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert {key: shapes.get(key) for key in KNOWN[name]} == KNOWN[name]
    assert sum(map(math.prod, shapes.values())) / 1e9 == pytest.approx(BILLIONS[name], abs=0.05)


@torch.no_grad()
@pytest.mark.parametrize("name", ["cogvlm", "qwen_vl"])
def test_values_are_those_once_checked(name: str) -> None:
    """The tower, adapter, layers, masks and positions agreed with the published code within 3e-6 when these were noted."""
    module = MODULES[name]
    ids, pictures = sample_of(name)
    last = module.logits(module.build(module.TINY, 5), ids, pictures)[-1, :4]
    assert last.tolist() == pytest.approx(NOTED[name], abs=1e-3)


def test_qwen_parts_are_as_large_as_the_paper_says() -> None:
    with torch.device("meta"):
        model = reference_qwen_vl.make(reference_qwen_vl.PUBLISHED)
    total, seen, pooled = (
        sum(parameter.numel() for parameter in part.parameters()) / 1e9
        for part in (model, model.transformer["visual"], model.transformer["visual"].attn_pool)
    )
    assert [seen - pooled, pooled, total - seen] == pytest.approx(QWEN_PARTS, abs=0.05)
    assert pooled == pytest.approx(QWEN_PARTS[1], abs=0.005)


def idle(name: str, key: str) -> bool:
    """What the published forward pass never looks at, or what softmax takes out again."""
    unread = ("encoder.layers.2.", "post_layernorm.")
    return name in ("yi_vl", "llava1") and (any(part in key for part in unread) or "self_attn.k_proj.bias" in key)


@torch.no_grad()
def test_every_tensor_counts(name: str, module: ModuleType, model: nn.Module) -> None:
    """Moved by random 0.2: a tensor moves the logits by 0.03 at least, rounding alone by 3e-6."""
    ids, pictures = sample_of(name)
    before = module.logits(model, ids, pictures)
    generator = torch.Generator().manual_seed(7)
    for key, parameter in model.named_parameters():
        kept = parameter.clone()
        parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        moved = float((module.logits(model, ids, pictures) - before).abs().max())
        parameter.copy_(kept)
        assert moved < 3e-5 if idle(name, key) else moved > 3e-3, (key, moved)


def test_cogvlm_positions_and_experts() -> None:
    """Written out by hand: two words, boi, three patches, eoi, a word; a picture first; two pictures that touch."""

    def visual(text: str) -> Tensor:
        return torch.tensor([letter == "v" for letter in text])

    def experts(text: str) -> str:
        return "".join("v" if taken else "." for taken in reference_cogvlm.expert_of(visual(text)).tolist())

    def positions(text: str) -> list[int]:
        return reference_cogvlm.positions_of(visual(text)).tolist()

    assert experts("..vvvvv.") == "..vvvv.."
    assert positions("..vvvvv.") == [0, 1, 2, 3, 3, 3, 4, 5]
    assert experts("vvvv..") == "vvv..." and positions("vvvv..") == [0, 1, 1, 2, 3, 4]
    # As published: nothing tells two pictures apart that touch, so the first eoi and the second boi count as patches.
    assert experts(".vvvvvv.") == ".vvvvv.." and positions(".vvvvvv.") == [0, 1, 2, 2, 2, 2, 3, 4]


def test_qwen_sincos_table() -> None:
    """The second cell of the first row stands in column 1, row 0; channels are sin and cos of the column, then the row."""
    table = reference_qwen_vl.sincos(8, 2)
    slow = 10000**-0.5
    column = [math.sin(1), math.sin(slow), math.cos(1), math.cos(slow)]
    assert table[1].tolist() == pytest.approx(column + [0, 0, 1, 1], abs=1e-6)
    assert table[2].tolist() == pytest.approx([0, 0, 1, 1] + column, abs=1e-6)
    kept = reference_qwen_vl.build(reference_qwen_vl.TINY, 3, published_positions=True)
    assert torch.equal(kept.transformer["visual"].attn_pool.pos_embed, reference_qwen_vl.sincos(32, 2))


def test_qwen_refuses_what_needs_ntk() -> None:
    model = reference_qwen_vl.build(reference_qwen_vl.TINY | {"seq_length": 5}, 3)
    with pytest.raises(ValueError, match="seq_length"):
        reference_qwen_vl.logits(model, [1] * 6, [])


@torch.no_grad()
@pytest.mark.parametrize("name", ["yi_vl", "llava1"])
def test_clip_and_llama_are_those_of_transformers(transformers: Any, name: str) -> None:
    """A third opinion, half by half, on values up to 6: measured within 2e-6."""
    module = MODULES[name]
    model = module.build(module.TINY, 5)
    state, tower = model.state_dict(), module.TOWERS[module.TINY["mm_vision_tower"]]
    ids, (picture, _) = sample_of(name)

    clip = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**tower)).eval()
    prefix = "model.vision_tower.vision_tower."
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not any(key.startswith("vision_model.") for key in clip.state_dict()):
        own = {key.removeprefix("vision_model."): value for key, value in own.items()}
    missing, unexpected = clip.load_state_dict(own, strict=False)
    assert not unexpected and not [key for key in missing if "position_ids" not in key]
    theirs = clip(pixel_values=picture[None], output_hidden_states=True).hidden_states[-2][0, 1:]
    vision = model.model["vision_tower"]["vision_tower"]["vision_model"]
    torch.testing.assert_close(vision(picture, -2), theirs, atol=1e-5, rtol=1e-5)

    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    config = {key: module.TINY[key] for key in (*keys, "rms_norm_eps", "max_position_embeddings")}
    config |= {key: module.TINY[key] for key in ("num_key_value_heads", "rope_theta") if key in module.TINY}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).eval()
    rest = {key: value for key, value in state.items() if "vision_tower" not in key and "mm_projector" not in key}
    llama.load_state_dict(rest)
    words = [token for token in ids if token != IMAGE]
    theirs = llama(input_ids=torch.tensor([words])).logits[0]
    torch.testing.assert_close(module.logits(model, words, []), theirs, atol=1e-5, rtol=1e-5)
