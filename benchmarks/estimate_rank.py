"""What the ranks of benchmarks/step_time.py --engine run: steps of real engines.

Seconds are CPU seconds of one-thread ranks, the least of several: on an idle machine they are what the wall clock
shows, and on a shared one company does not count.
"""

import time
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from cluster.cost.load import rows_of
from configs.model import ModelConfig
from configs.training import OptimConfig, ParallelConfig
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.chat import Encoded
from data_pipeline.stream.collate import Ready, collate
from data_pipeline.stream.layout import geometry_of
from data_pipeline.stream.row_column import MARKS
from pretrain.engine import Engine
from pretrain.loads import load_of
from pretrain.loss import micro_loss
from pretrain.mesh import Mesh, attention_dtype, math_dtype
from pretrain.model.inputs import to_inputs
from pretrain.model.vlm import make_model
from pretrain.optim import make_optimizer, set_rates
from pretrain.stages import apply_stage
from pretrain.zero_config import born

VOCABULARY, PAD, IMAGE = 8000, 0, 1


def ready(model: ModelConfig, seed: int, picture: tuple[int, int] | None, text: int) -> Ready:
    random = np.random.default_rng(seed)
    ids = [2, *([IMAGE] if picture else []), *random.integers(3, VOCABULARY, text).tolist()]
    labels = np.zeros(len(ids), bool)
    labels[-text // 2 :] = True
    images = [random.integers(0, 256, (picture[1], picture[0], 3), dtype=np.uint8)] if picture else []
    return Ready(
        Encoded(np.array(ids), labels, np.arange(1, 1 + len(images)), 3 + np.arange(len(MARKS))),
        [picture] if picture else [],
        images=images,
        info={},
    )


def batches_of(mesh: Mesh, model: ModelConfig, length: int, rows: int, micro: int, seed: int) -> list[Batch]:
    """Micro-steps of `rows` full rows: samples of one picture and 60 to 180 tokens of text."""
    geometry, out = geometry_of(model), []
    random = np.random.default_rng([seed, mesh.dp_rank])
    for number in range(micro):
        made = []
        for row in range(rows):
            held: list[Ready] = []
            left = length
            while True:
                size = (int(random.integers(6, 16)) * 28, int(random.integers(6, 16)) * 28)
                one = ready(model, 1000 * number + 10 * row + len(held), size, int(random.integers(60, 180)))
                tokens = one.laid_out(geometry).tokens
                if tokens > left:
                    break
                held.append(one)
                left -= tokens
            made.append(held)
        out.append(collate(made, length, geometry, PAD, cnn=False, denominator=1000.0))
    return out


def step(
    mesh: Mesh,
    config: dict[str, Any],
    zero: int,
    precision: str,
    train: dict[str, float],
    length: int,
    rows: int,
    micro: int,
    steps: int = 2,
) -> dict[str, Any]:
    """CPU seconds of the cheapest optimizer step (the first two left out: ZeRO-3 learns its trace), and the rows as loads."""
    torch.set_num_threads(1)
    model = ModelConfig.model_validate(config)
    parallel = ParallelConfig(zero=zero, precision=precision, tp=mesh.tp_size)  # type: ignore[arg-type]
    batches = batches_of(mesh, model, length, rows, micro, 0)
    with born(parallel, mesh):
        net = make_model(model, VOCABULARY, mesh, precision, "auto", 0)
    table = apply_stage(net, train)
    engine = Engine(net, make_optimizer(table, OptimConfig()), parallel, mesh, micro, clip=1.0)
    seconds = []
    for _ in range(steps + 2):
        if mesh.world > 1:
            dist.barrier()
        start = time.process_time()
        set_rates(engine.optimizer, 1.0)
        for batch in batches:
            out = engine.forward(to_inputs(batch, mesh.device))
            engine.backward(micro_loss(out.loss_sum, batch.denominator, mesh.dp_size))
            engine.step()
        seconds.append(time.process_time() - start)
    math = math_dtype(precision)
    return {
        "seconds": min(seconds[2:]),
        "rows": rows_of([load_of(batch, model).scaled(1 / rows) for batch in batches], "measured"),
        "math": "bf16" if math == torch.bfloat16 else "fp32",
        "attention": "bf16" if attention_dtype(math) == torch.bfloat16 else "fp32",
    }
