"""What the convolutional networks share: frozen, pictures of any sizes in, a grid of features or its mean out."""

import numpy as np
import torch
from torch import Tensor, nn


class FrozenCnn(nn.Module):
    """uint8 pictures [N, H, W, 3] of one size (multiples of `stride`) -> features [N, H/stride * W/stride, C], fp32.

    `pooled`: `encode` gives the mean of a picture's cells, as one row.
    """

    channels: int
    stride: int
    pooled = False

    def train(self, mode: bool = True) -> "FrozenCnn":
        """Evaluation mode whatever the caller trains: a batch norm that learnt on would make a packed row differ."""
        return super().train(False)

    def fold(self) -> None:
        """Absorb every batch norm into the convolution before it, where there are some."""

    def encode(self, pictures: list[np.ndarray], device: torch.device, batch: int = 16, merge: int = 1) -> list[Tensor]:
        """Pictures [H, W, 3] of any sizes -> features [cells, C] of each ([1, C] where pooled); equal sizes run together.

        Args:
            merge: cells along a side of a square that become one row, side by side: [cells / merge^2, merge^2 * C].
        """
        out: list[Tensor | None] = [None] * len(pictures)
        sizes: dict[tuple[int, ...], list[int]] = {}
        for index, picture in enumerate(pictures):
            sizes.setdefault(picture.shape, []).append(index)
        for group in sizes.values():
            for start in range(0, len(group), batch):
                part = group[start : start + batch]
                stack = torch.from_numpy(np.stack([pictures[i] for i in part])).to(device)
                made = merged(self(stack), stack.shape[1] // self.stride, merge)
                for index, features in zip(part, made.mean(1, keepdim=True) if self.pooled else made, strict=True):
                    out[index] = features
        return out  # type: ignore[return-value]


def merged(features: Tensor, rows: int, merge: int) -> Tensor:
    """[N, rows * columns, C] in reading order -> [N, rows * columns / merge^2, merge^2 * C], merge x merge neighbours joined."""
    if merge == 1:
        return features
    count, cells, channels = features.shape
    grid = features.view(count, rows // merge, merge, cells // rows // merge, merge, channels)
    return grid.transpose(2, 3).reshape(count, cells // merge**2, merge**2 * channels)


def absorb(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Put a frozen batch norm behind `conv` into its weight and bias; memory laid out channels last."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    scale = norm.weight / torch.sqrt(variance + norm.eps)
    weight = (conv.weight * scale[:, None, None, None]).contiguous(memory_format=torch.channels_last)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.bias = nn.Parameter(norm.bias - mean * scale, requires_grad=False)


def normalised(pictures: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """uint8 [N, H, W, 3] -> fp32 [N, 3, H, W] of which `mean` and `std` (of values in 0 to 1) are taken out."""
    x = pictures.permute(0, 3, 1, 2).float() / 255
    shift, scale = (torch.tensor(values, device=x.device).view(3, 1, 1) for values in (mean, std))
    return (x - shift) / scale
