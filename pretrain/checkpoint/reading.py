"""Reading checkpoints by logical name and range: any topology's pieces into any other's engine, or into a plain model."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs.errors import RunError, UserError
from data_pipeline import storage
from pretrain.checkpoint.files import Reader, Stored, entries_of
from pretrain.checkpoint.geometry import Span, blocks
from pretrain.checkpoint.head import check_schema
from pretrain.engine import KINDS, Engine
from pretrain.mesh import Mesh
from pretrain.model.linear import logical_of


class Checkpoint:
    """Read access by logical name, whatever topology wrote it.

    Args:
        folder: of the checkpoint, and `frozen` of the frozen parameters that it needs.
    Raises:
        UserError: a file is not of our format.
    """

    def __init__(self, folder: str | Path, frozen: str | Path | None = None):
        self.folder = str(folder)
        path = storage.join(self.folder, "state.json")
        try:
            self.state: dict[str, Any] = json.loads(storage.read_bytes(path))
            check_schema(self.state, path)
        except (OSError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} cannot be read ({error}): use another checkpoint") from None
        if frozen is None and self.state.get("frozen"):
            frozen = storage.join(self.folder.rpartition("/")[0], self.state["frozen"])
        self._stored: dict[tuple[str, str], list[Stored]] = {}
        for place in (self.folder, None if frozen is None else str(frozen)):
            for stored in () if place is None else _entries(place):
                self._stored.setdefault((stored.kind, stored.name), []).append(stored)
        self._reader = Reader()

    def names(self, kind: str = "master") -> list[str]:
        return sorted(name for k, name in self._stored if k == kind)

    def shape(self, name: str) -> tuple[int, ...] | None:
        found = self._stored.get(("master", name))
        return found[0].span.shape if found else None

    def read(self, kind: str, name: str, wanted: Span, target: Tensor) -> None:
        """Fill the flat tensor `target` with a span of a logical tensor, by ranges.

        Raises:
            RunError: pieces are missing.
        """
        filled = 0
        for stored in self._stored.get((kind, name), ()):
            for block in blocks(stored.span, wanted):
                self._reader.copy(stored, block, target)
                filled += block.rows * block.width
        if filled != wanted.count:
            raise RunError(
                f"{self.folder}: {kind} of {name} has {filled} of {wanted.count} elements: a rank's file is missing"
            )

    def tensor(self, name: str, kind: str = "master") -> Tensor:
        """The whole logical tensor, fp32.

        Raises:
            RunError: pieces are missing, or there is no such tensor.
        """
        found = self._stored.get((kind, name))
        if not found:
            raise RunError(f"{self.folder} holds no {kind} of {name}: it was written by another model")
        shape = found[0].span.shape
        whole = torch.empty(shape)
        self.read(kind, name, Span(shape, None, 0, None, 0, whole.numel()), whole.view(-1))
        return whole

    def close(self) -> None:
        self._reader.close()


def _entries(folder: str) -> Iterator[Stored]:
    for name in storage.listdir(folder):
        if name.startswith("rank-") and name.endswith(".safetensors"):
            yield from entries_of(storage.join(folder, name))


def span_of(parameter: nn.Parameter, tp_size: int, start: int, stop: int) -> Span:
    """Elements [start, stop) of this TP rank's flattened slice of a parameter."""
    logical = logical_of(parameter)
    size = None if logical.axis is None else logical.shape[logical.axis] // tp_size
    return Span(logical.shape, logical.axis, logical.offset, size, start, stop)


def _check(checkpoint: Checkpoint, parameters: Iterable[nn.Parameter]) -> None:
    """The same tensors of the same shapes: nothing of a checkpoint may be dropped in silence."""
    wanted = {logical_of(parameter).name: logical_of(parameter).shape for parameter in parameters}
    for name, shape in wanted.items():
        found = checkpoint.shape(name)
        if found != shape:
            raise UserError(
                f"{checkpoint.folder} has {name} of shape {found}, this model needs {shape}: start from a run of the same model"
            )
    extra = sorted(set(checkpoint.names()) - wanted.keys())
    if extra:
        raise UserError(
            f"{checkpoint.folder} has {extra[0]} and {len(extra) - 1} more tensors that this model lacks: "
            "start from a run of the same model"
        )


def load_engine(checkpoint: Checkpoint, engine: Engine, mesh: Mesh, moments: bool) -> None:
    """Fill weights (and AdamW's moments) of an engine of any topology; each rank reads what it holds.

    Raises:
        UserError: the checkpoint is of another model.
    """
    _check(checkpoint, engine.module.parameters())
    if moments:
        engine.prepare_state(int(checkpoint.state["optimizer_steps"]))
    for parameter in engine.module.parameters():
        name = logical_of(parameter).name
        kinds = KINDS if moments and parameter.requires_grad else KINDS[:1]
        for held in engine.wanted(parameter, kinds):
            span = span_of(parameter, mesh.tp_size, held.start, held.stop)
            for kind, view in held.views.items():
                checkpoint.read(kind, name, span, view)
    engine.weights_follow()


def load_weights(checkpoint: Checkpoint, model: nn.Module, mesh: Mesh) -> None:
    """Fill a plain model (outside ZeRO) with a checkpoint's weights, rounded to the parameters' dtype."""
    _check(checkpoint, model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            span = span_of(parameter, mesh.tp_size, 0, parameter.numel())
            checkpoint.read("master", logical_of(parameter).name, span, parameter.data.view(-1))


def weights_sha256(folder: str | Path) -> str:
    """SHA-256 over the logical fp32 weights in order of name: equal weights, equal digest, whatever the topology."""
    checkpoint = Checkpoint(folder)
    sha = hashlib.sha256()
    for name in checkpoint.names():
        tensor = checkpoint.tensor(name)
        sha.update(f"{name}{tuple(tensor.shape)}".encode())
        sha.update(tensor.contiguous().numpy().tobytes())
    checkpoint.close()
    return sha.hexdigest()
