"""What a table of names is made of: one logical tensor, one published tensor, and what lies between."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """`ours` of `shape` is `forth(theirs)`; `theirs` is `back(ours)`."""

    ours: str
    theirs: str
    shape: tuple[int, ...]
    published: tuple[int, ...]
    forth: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


def same(ours: str, theirs: str, *shape: int) -> Rule:
    """The very same tensor."""
    return Rule(ours, theirs, shape, shape, lambda x: x, lambda x: x)


def viewed(ours: str, theirs: str, shape: tuple[int, ...], published: tuple[int, ...]) -> Rule:
    """The same elements in the same order, in another shape."""
    return Rule(ours, theirs, shape, published, lambda x: x.reshape(shape), lambda x: x.reshape(published))


def padded(ours: str, theirs: str, rows: int, published: int, width: int) -> Rule:
    """Rows that only pad a vocabulary come behind, zero."""

    def forth(x: Tensor) -> Tensor:
        return x if rows == published else torch.cat([x, x.new_zeros(rows - published, width)])

    return Rule(ours, theirs, (rows, width), (published, width), forth, lambda x: x[:published])


def linear(ours: str, theirs: str, outputs: int, inputs: int, bias: bool = True) -> list[Rule]:
    """A linear layer's weight and bias."""
    rules = [same(f"{ours}.weight", f"{theirs}.weight", outputs, inputs)]
    return [*rules, same(f"{ours}.bias", f"{theirs}.bias", outputs)] if bias else rules


def layer_norm(ours: str, theirs: str, width: int) -> list[Rule]:
    """A LayerNorm's weight and bias."""
    return [same(f"{ours}.{part}", f"{theirs}.{part}", width) for part in ("weight", "bias")]
