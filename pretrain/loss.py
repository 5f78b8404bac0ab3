"""The loss rule: a sum of token losses over the step's planned weight N, never a mean of means.

`Output.loss_sum` is this rank's weighted sum over one micro-step. DeepSpeed averages gradients over the DP ranks, so
each micro-step's loss is `loss_sum * DP / N`: after averaging, and summed over micro-steps, that is the gradient of
sum(all token losses) / N, whatever DP and accumulation are. N comes from the plan, before any token is read.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.stream.batch import Batch
from pretrain.mesh import Mesh

COUNTS = (
    "loss_sum",
    "weight",
    "label_tokens",
    "real_tokens",
    "visual_tokens",
    "images",
    "positions",
    "flops",
    "fillers",
    "samples",
)


def micro_loss(loss_sum: Tensor, denominator: float, dp_size: int) -> Tensor:
    """What one micro-step hands to backward. A step whose every row is a dummy has N = 0 and no loss."""
    return loss_sum * (dp_size / denominator if denominator else 0.0)


@dataclass
class StepCounts:
    """Actual sums of one step, this rank's until `reduced`. The reported loss is loss_sum / weight."""

    values: Tensor

    @staticmethod
    def empty() -> "StepCounts":
        return StepCounts(torch.zeros(len(COUNTS), dtype=torch.float64))

    def add(self, batch: Batch, loss_sum: Tensor, weight: Tensor, flops: float) -> None:
        visual = sum(row.visual for row in batch.rows)
        fillers = sum("filler" in sample for row in batch.rows for sample in row.samples)
        self.values += torch.tensor(
            [
                float(loss_sum.detach()),
                float(weight),
                batch.label_tokens,
                batch.real_tokens,
                visual,
                batch.vision.pictures,
                batch.ids.size,
                flops,
                fillers,
                sum(len(row.samples) for row in batch.rows),
            ],
            dtype=torch.float64,
        )

    def reduced(self, mesh: Mesh, extra: tuple[float, ...] = ()) -> tuple[dict[str, float], list[float]]:
        """Sums over the DP ranks by name, and `extra` (flags, seconds) summed over all ranks: one collective a step."""
        values = torch.cat([self.values, torch.tensor(extra, dtype=torch.float64)]).to(mesh.device)
        if mesh.world > 1:
            dist.all_reduce(
                values
            )  # over TP ranks as well, which hold equal counts: a flag raised anywhere is seen by all
        numbers = values.tolist()
        counts = {name: value / mesh.tp_size for name, value in zip(COUNTS, numbers, strict=False)}
        return counts, numbers[len(COUNTS) :]
