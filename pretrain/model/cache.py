"""The KV cache of a generation."""

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of S sequences of equal length, room for `room` positions, one pair a layer."""

    def __init__(self, sequences: int, room: int):
        self.sequences, self.room, self.length = sequences, room, 0
        self.following: Tensor | None = None
        """[S] position of each sequence's next token; it may lie behind `length` (M-RoPE)."""
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def places(self, count: int) -> Tensor:
        """[3, S * count] positions of the next `count` tokens, which are text."""
        assert self.following is not None
        steps = self.following[:, None] + torch.arange(count, device=self.following.device)
        return steps.reshape(1, -1).expand(3, -1)

    def mark(self) -> tuple[int, Tensor | None]:
        """Where the sequences are, for `back`."""
        return self.length, self.following

    def back(self, mark: tuple[int, Tensor | None]) -> None:
        """Forget what came after `mark`."""
        self.length, self.following = mark

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add [S, N, K, D] at the end; returns all so far, [S, length + N, K, D]."""
        if layer not in self.keys:
            shape = (self.sequences, self.room, *k.shape[2:])
            self.keys[layer], self.values[layer] = k.new_empty(shape), v.new_empty(shape)
        end = self.length + k.shape[1]
        self.keys[layer][:, self.length : end] = k
        self.values[layer][:, self.length : end] = v
        return self.keys[layer][:, :end], self.values[layer][:, :end]
