"""Published weights of a part into an engine's parameters, tensor by tensor: each rank takes what it holds."""

from collections.abc import Iterator

import torch
from torch import Tensor

from configs.errors import UserError
from pretrain.checkpoint.reading import span_of
from pretrain.engine import KINDS, Engine
from pretrain.mesh import Mesh
from pretrain.model.linear import logical_of


def fill_part(part: str, tensors: Iterator[tuple[str, Tensor]], where: str, engine: Engine, mesh: Mesh) -> int:
    """Fill all of an engine's parameters named `part`.*, whatever its topology. Returns their number.

    Args:
        tensors: (logical name, whole tensor), one at a time; all checks come before the first of them.
        where: they come from, for messages.
    Raises:
        UserError: there is none for a parameter.
    """
    parameters = {logical_of(parameter).name: parameter for parameter in engine.module.parameters()}
    missing, count = {name for name in parameters if name.startswith(f"{part}.")}, 0
    for name, whole in tensors:
        parameter = parameters[name]
        for held in engine.wanted(parameter, KINDS[:1]):
            span = span_of(parameter, mesh.tp_size, held.start, held.stop)
            cut = whole if span.axis is None else whole.narrow(span.axis, span.offset, span.size or 0)
            with torch.no_grad():
                held.views["master"].copy_(cut.reshape(-1)[held.start : held.stop])
        missing.discard(name)
        count += 1
    if missing:
        raise UserError(f"{where} has nothing for {min(missing)} and {len(missing) - 1} more of the {part}")
    engine.weights_follow()
    return count
