"""What trains in a stage: patterns -> parameters and learning rates; the freeze table.

A pattern is a module path: `projector`, `decoder`, `encoder`, `decoder.embedding`, `decoder.layers[20:]`,
`decoder.layers[3]`. The longest pattern that matches a parameter decides; a parameter that none matches is frozen.
Freeze variants of the course: A {projector}, B {projector, decoder}, C {encoder, projector, decoder}.
"""

import difflib
from dataclasses import dataclass, field

from torch import nn

from configs.errors import UserError
from configs.patterns import matchers
from pretrain.model.linear import logical_of


@dataclass
class FreezeRow:
    """One line of the table. `members`: (logical name, parameter, is a matrix that decays)."""

    pattern: str
    rate: float
    members: list[tuple[str, nn.Parameter, bool]] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        """Elements of the whole model (not of this rank)."""
        total = 0
        for _, parameter, _ in self.members:
            count = 1
            for size in logical_of(parameter).shape:
                count *= size
            total += count
        return total


def apply_stage(
    model: nn.Module, train: dict[str, float], frozen_outside: dict[str, int] | None = None
) -> list[FreezeRow]:
    """Set `requires_grad` by the stage's patterns and return the table, trained rows first.

    Args:
        frozen_outside: parts held outside the parameters (a frozen CNN) -> their number of elements.
    Raises:
        UserError: a pattern matches nothing, or names a part that cannot train.
    """
    rows = {pattern: FreezeRow(pattern, rate) for pattern, rate in train.items()}
    frozen: dict[str, FreezeRow] = {}
    matching = matchers(train)
    names: list[str] = []
    for parameter in model.parameters():
        name = logical_of(parameter).name
        names.append(name)
        matrix = len(logical_of(parameter).shape) > 1 and "embedding" not in name
        chosen = next((p for p, found in matching if found.match(name)), None)
        parameter.requires_grad_(chosen is not None and train[chosen] > 0)
        row = rows[chosen] if chosen is not None else frozen.setdefault(_part(name), FreezeRow(_part(name), 0.0))
        row.members.append((name, parameter, matrix))
    for pattern, found in matching:
        if not any(found.match(name) for name in names):
            raise UserError(_no_match(pattern, names, frozen_outside or {}))
    if not any(row.rate for row in rows.values()):
        raise UserError("stage.train trains nothing: give at least one part a learning rate above 0")
    return [*rows.values(), *frozen.values()]


def freeze_table(rows: list[FreezeRow], frozen_outside: dict[str, int]) -> list[dict[str, object]]:
    """The table as plain values: module, trainable, lr, parameters."""
    table: list[dict[str, object]] = [
        {"module": row.pattern, "trainable": row.rate > 0, "lr": row.rate, "parameters": row.parameters} for row in rows
    ]
    for name, count in frozen_outside.items():
        table.append({"module": name, "trainable": False, "lr": 0.0, "parameters": count})
    return table


def _part(name: str) -> str:
    return name.split(".", 1)[0]


def _no_match(pattern: str, names: list[str], outside: dict[str, int]) -> str:
    part = _part(pattern)
    if part in outside:
        return f"stage.train names {pattern!r}, but this encoder, a CNN, is always frozen: remove it"
    known = sorted({".".join(n.split(".")[:k]) for n in names for k in (1, 2)} - {n for n in names if n.count(".") < 1})
    near = difflib.get_close_matches(pattern, known, 1)
    hint = f"did you mean `{near[0]}`?" if near else f"known parts: {', '.join(sorted({_part(n) for n in names}))}"
    return f"stage.train pattern {pattern!r} matches no parameter: {hint}"
