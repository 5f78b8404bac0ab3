"""Reading checkpoints by logical name: any topology's pieces into any other's engine, or into a plain model."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from configs.errors import RunError, UserError
from pretrain.checkpoint import SCHEMA
from pretrain.engine import KINDS, Engine
from pretrain.mesh import Mesh
from pretrain.model.linear import logical_of


class Checkpoint:
    """Read access by logical name, whatever topology wrote it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.state: dict[str, Any] = json.loads((folder / "state.json").read_bytes())
        if self.state["schema"] != SCHEMA:
            raise UserError(
                f"{folder} has schema {self.state['schema']}, this looksay reads {SCHEMA}: use a matching version"
            )
        self._pieces: dict[tuple[str, str], list[tuple[Path, dict[str, Any]]]] = {}
        self._open: dict[Path, Any] = {}
        for place in (folder, folder.parent / "frozen"):
            for path in sorted(place.glob("rank-*.json")):
                for piece in json.loads(path.read_bytes())["pieces"]:
                    key = (piece["kind"], piece["name"])
                    self._pieces.setdefault(key, []).append((path.with_suffix(".safetensors"), piece))

    def names(self, kind: str = "master") -> list[str]:
        return sorted(name for k, name in self._pieces if k == kind)

    def shape(self, name: str) -> tuple[int, ...] | None:
        found = self._pieces.get(("master", name))
        return tuple(found[0][1]["shape"]) if found else None

    def tensor(self, name: str, kind: str = "master") -> Tensor:
        """The whole logical tensor, fp32.

        Raises:
            RunError: pieces are missing.
        """
        pieces = self._pieces.get((kind, name))
        if not pieces:
            raise RunError(f"{self.folder} holds no {kind} of {name}: it was written by another model")
        shape = tuple(pieces[0][1]["shape"])
        slices: dict[tuple[int, int | None], Tensor] = {}
        filled = 0
        for path, piece in pieces:
            key = (piece["offset"], piece["size"])
            if key not in slices:
                slices[key] = torch.empty(_slice_shape(shape, piece["axis"], piece["size"])).flatten()
            slices[key][piece["start"] : piece["stop"]] = self._read(path, f"{kind}/{name}")
            filled += piece["stop"] - piece["start"]
        whole = torch.empty(shape)
        if filled != whole.numel():
            raise RunError(
                f"{self.folder}: {kind} of {name} has {filled} of {whole.numel()} elements: a rank's file is missing"
            )
        axis = pieces[0][1]["axis"]
        for (offset, size), flat in slices.items():
            if axis is None:
                return flat.view(shape)
            whole.narrow(axis, offset, size or 0).copy_(flat.view(_slice_shape(shape, axis, size)))
        return whole

    def _read(self, path: Path, key: str) -> Tensor:
        if path not in self._open:
            self._open[path] = safe_open(str(path), framework="pt")
        return self._open[path].get_tensor(key)


def _slice_shape(shape: tuple[int, ...], axis: int | None, size: int | None) -> tuple[int, ...]:
    if axis is None or size is None:
        return shape
    return (*shape[:axis], size, *shape[axis + 1 :])


def _local(checkpoint: Checkpoint, parameter: nn.Parameter, mesh: Mesh, kind: str) -> Tensor:
    """This TP rank's slice of a logical tensor."""
    logical = logical_of(parameter)
    found = checkpoint.shape(logical.name)
    if found is None or found != logical.shape:
        raise UserError(
            f"{checkpoint.folder} has {logical.name} of shape {found}, this model needs {logical.shape}: "
            "start from a run of the same model"
        )
    whole = checkpoint.tensor(logical.name, kind)
    if logical.axis is None:
        return whole
    return whole.narrow(logical.axis, logical.offset, logical.shape[logical.axis] // mesh.tp_size)


def _check_names(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Nothing of a checkpoint may be dropped in silence."""
    extra = sorted(set(checkpoint.names()) - {logical_of(parameter).name for parameter in model.parameters()})
    if extra:
        raise UserError(
            f"{checkpoint.folder} has {extra[0]} and {len(extra) - 1} more tensors that this model lacks: "
            "start from a run of the same model"
        )


def load_engine(checkpoint: Checkpoint, engine: Engine, mesh: Mesh, moments: bool) -> None:
    """Fill weights (and AdamW's moments) of an engine of any topology.

    Raises:
        UserError: the checkpoint is of another model.
    """
    _check_names(checkpoint, engine.module)
    if moments:
        engine.prepare_state(int(checkpoint.state["optimizer_steps"]))
    for parameter in engine.module.parameters():
        engine.put(parameter, "master", _local(checkpoint, parameter, mesh, "master"))
        if moments and parameter.requires_grad:
            for kind in KINDS[1:]:
                engine.put(parameter, kind, _local(checkpoint, parameter, mesh, kind))


def load_weights(folder: Path, model: nn.Module, mesh: Mesh) -> None:
    """Fill a plain model (outside ZeRO) with a checkpoint's weights, rounded to the parameters' dtype."""
    checkpoint = Checkpoint(folder)
    _check_names(checkpoint, model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(_local(checkpoint, parameter, mesh, "master"))


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the logical fp32 weights in order of name: equal weights, equal digest, whatever the topology."""
    checkpoint = Checkpoint(folder)
    sha = hashlib.sha256()
    for name in checkpoint.names():
        tensor = checkpoint.tensor(name)
        sha.update(f"{name}{tuple(tensor.shape)}".encode())
        sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()
