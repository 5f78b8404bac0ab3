"""What a table of names is made of: one logical tensor, one published tensor (or rows of it), and what lies between."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Rows = slice | tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """`ours` of `shape` is `forth` of `rows` of `theirs`; these rows are `back(ours)`. `rows` None: all of it."""

    ours: str
    theirs: str
    shape: tuple[int, ...]
    published: tuple[int, ...]
    forth: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    rows: Rows | None = None

    def take(self, theirs: Tensor) -> Tensor:
        """Our tensor out of the published one."""
        if self.rows is None:
            return self.forth(theirs)
        return self.forth(theirs[self.rows if isinstance(self.rows, slice) else list(self.rows)])

    def put(self, ours: Tensor, theirs: Tensor) -> None:
        """Write our tensor to its place in the published one."""
        if self.rows is None:
            theirs.copy_(self.back(ours))
        else:
            theirs[self.rows if isinstance(self.rows, slice) else list(self.rows)] = self.back(ours).to(theirs.dtype)


def same(ours: str, theirs: str, *shape: int) -> Rule:
    """The very same tensor."""
    return Rule(ours, theirs, shape, shape, lambda x: x, lambda x: x)


def viewed(ours: str, theirs: str, shape: tuple[int, ...], published: tuple[int, ...]) -> Rule:
    """The same elements in the same order, in another shape."""
    return Rule(ours, theirs, shape, published, lambda x: x.reshape(shape), lambda x: x.reshape(published))


def turned(ours: str, theirs: str, rows: int, columns: int) -> Rule:
    """The transposed matrix: ours is rows x columns."""
    return Rule(ours, theirs, (rows, columns), (columns, rows), lambda x: x.t(), lambda x: x.t())


def padded(ours: str, theirs: str, rows: int, published: int, width: int) -> Rule:
    """Rows that only pad a vocabulary come behind, zero."""

    def forth(x: Tensor) -> Tensor:
        return x if rows == published else torch.cat([x, x.new_zeros(rows - published, width)])

    return Rule(ours, theirs, (rows, width), (published, width), forth, lambda x: x[:published])


def linear(ours: str, theirs: str, outputs: int, inputs: int, bias: bool = True) -> list[Rule]:
    """A linear layer's weight and bias."""
    rules = [same(f"{ours}.weight", f"{theirs}.weight", outputs, inputs)]
    return [*rules, same(f"{ours}.bias", f"{theirs}.bias", outputs)] if bias else rules


def fused(
    ours: Sequence[str],
    theirs: tuple[str, str],
    sizes: Sequence[int],
    inputs: int,
    bias: bool = True,
    rows: Sequence[Rows] | None = None,
) -> list[Rule]:
    """Linear layers `ours` of `sizes` outputs each, published as one: (name of its weight, name of its bias).

    Args:
        rows: where each lies; none: one behind the other.
    """
    total, at, rules = sum(sizes), 0, []
    for number, (name, size) in enumerate(zip(ours, sizes, strict=True)):
        part: Rows = slice(at, at + size) if rows is None else rows[number]
        weight = replace(same(f"{name}.weight", theirs[0], size, inputs), published=(total, inputs), rows=part)
        rules.append(weight)
        if bias:
            rules.append(replace(same(f"{name}.bias", theirs[1], size), published=(total,), rows=part))
        at += size
    return rules


def layer_norm(ours: str, theirs: str, width: int) -> list[Rule]:
    """A LayerNorm's weight and bias."""
    return [same(f"{ours}.{part}", f"{theirs}.{part}", width) for part in ("weight", "bias")]


def norm(ours: str, theirs: str, width: int, kind: str) -> list[Rule]:
    """A norm of either kind."""
    return layer_norm(ours, theirs, width) if kind == "layer" else [same(f"{ours}.weight", f"{theirs}.weight", width)]
