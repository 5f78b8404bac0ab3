"""What the pool's ranks run for GGUF tests: a decoder filled under ZeRO and TP, and a short training that starts from a file."""

from pathlib import Path
from typing import Any

import deepspeed
import torch

from configs.data import TemplateConfig
from configs.decoder import DecoderConfig
from configs.load import load_recipe
from configs.model import ModelConfig
from configs.schema import TrainRecipe
from configs.training import OptimConfig, ParallelConfig
from data_pipeline.stream.chat import Chat
from pretrain.checkpoint.choose import find
from pretrain.checkpoint.reading import Checkpoint
from pretrain.decoder_weights import fill_decoder, tensors_of
from pretrain.engine import Engine
from pretrain.mesh import Mesh
from pretrain.model.linear import logical_of
from pretrain.model.vlm import make_model
from pretrain.optim import make_optimizer
from pretrain.running import train
from pretrain.stages import apply_stage
from pretrain.zero_config import born
from tests.support.worlds import MODEL


def differing(mesh: Mesh, decoder: dict[str, Any], vocabulary: int, zero: int, trained: dict[str, float]) -> list[str]:
    """Names of the decoder whose slice, gathered again, is not this TP rank's part of the file's tensor."""
    config = ModelConfig(encoder=MODEL.encoder, projector=MODEL.projector, decoder=DecoderConfig(**decoder))
    parallel = ParallelConfig(zero=zero, precision="fp32", tp=mesh.tp_size)  # type: ignore[arg-type]
    with born(parallel, mesh):
        net = make_model(config, vocabulary, mesh, "fp32", "fp32", 3)
    engine = Engine(net, make_optimizer(apply_stage(net, trained), OptimConfig()), parallel, mesh, 1, clip=1.0)
    fill_decoder(config.decoder, engine, mesh, vocabulary)
    wrong, wanted = [], dict(tensors_of(config.decoder, vocabulary))
    for parameter in engine.module.parameters():
        logical = logical_of(parameter)
        if not logical.name.startswith("decoder."):
            continue
        whole = wanted.pop(logical.name)
        part = whole if logical.axis is None else whole.chunk(mesh.tp_size, logical.axis)[mesh.tp_rank]
        with deepspeed.zero.GatheredParameters([parameter], enabled=zero == 3):
            if not torch.equal(parameter.detach().reshape(part.shape), part):
                wrong.append(logical.name)
    return wrong + list(wanted)


def started(mesh: Mesh, world: str, run: str, decoder: dict[str, Any]) -> dict[str, Any]:
    """Two steps of `smollm2_caption_a` in small: names whose saved weights are not the file's, and whether the projector moved."""
    sets = [
        "model.encoder.weights=null",
        f"data.sources=[{{path: {world}/captioned}}]",
        f"data.tokenizer={world}/gguf_tokens",
        "data.packing={length: 96, rows_per_step: 1, window_steps: 64}",
        "stage.steps=2",
        "optim.warmup_steps=0",
        "evaluate.source=null",
    ]
    recipe = load_recipe("smollm2_caption_a", [*sets, *(f"model.decoder.{k}={v}" for k, v in decoder.items())])
    assert isinstance(recipe, TrainRecipe)
    assert train(recipe, run, mesh)
    chosen = find(run)
    found = Checkpoint(chosen.folder, chosen.frozen)
    tokens = Chat(recipe.data.tokenizer, TemplateConfig(preset="chatml")).vocab_size
    wrong = [n for n, t in tensors_of(recipe.model.decoder, tokens) if not torch.equal(found.tensor(n), t)]
    lines = (Path(run) / "metrics.jsonl").read_text().count('"loss"')
    return {"wrong": wrong, "steps": lines, "moments": bool(found.names("exp_avg"))}
