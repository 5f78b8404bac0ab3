"""A convolutional network out of its settings: made, filled with published or seeded weights, folded and frozen."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from configs.encoders import Cnn, ConvNext, EfficientNetLite0, ResNet
from configs.errors import UserError
from data_pipeline.parts.cache import find
from data_pipeline.parts.name import Hub, part_of
from pretrain.model import cnn
from pretrain.model.convnext import ConvNext as ConvNextNetwork
from pretrain.model.convolutional import FrozenCnn
from pretrain.model.hf.cnns import cnn_of, short_name
from pretrain.model.hf.parts import require_alike
from pretrain.model.hf.published import Published
from pretrain.model.resnet import ResNet as ResNetNetwork

KEY = "model.encoder.weights"
FREE = ("type", "weights", "pool")
"""Settings that say what is done with the network, not what it is."""


def count_parameters(config: Cnn) -> int:
    """Elements of the network up to its features, without making it."""
    if isinstance(config, EfficientNetLite0):
        return cnn.count_parameters(config.feature)
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in _network(config).parameters())


def load_cnn(config: Cnn, seed: int, device: torch.device) -> FrozenCnn:
    """The frozen network with its published weights, or seeded random ones; batch norms folded in.

    Raises:
        UserError: the weights are not here, or are another network's.
    """
    net: FrozenCnn
    if isinstance(config, EfficientNetLite0):
        net = cnn.load_efficientnet(config.weights, config.feature, seed, device)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = _network(config)
            for layer in net.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if config.weights is not None:
            _fill(net, config)
        net = net.to(device).requires_grad_(False)
        with torch.no_grad():
            net.fold()
    net.pooled = config.pool == "mean"
    return net


def weight_files(config: Cnn) -> list[Path]:
    """The safetensors of its weights, in order: what the features depend on.

    Raises:
        UserError: they are not here.
    """
    assert config.weights is not None
    folder = _folder(config)
    return [cnn.safetensors_of(config.weights)] if folder is None else Published(folder).files


def _network(config: Cnn) -> FrozenCnn:
    if isinstance(config, ResNet):
        return ResNetNetwork(config)
    assert isinstance(config, ConvNext)
    return ConvNextNetwork(config)


def _folder(config: Cnn) -> Path | None:
    """The folder that its weights are in; none: they are a file."""
    if isinstance(config, EfficientNetLite0) or config.weights is None:
        return None
    if not isinstance(part_of(config.weights), Hub | None):
        return None
    place = find(config.weights, KEY)
    return place if place.is_dir() else None


def _fill(net: FrozenCnn, config: Cnn) -> None:
    assert config.weights is not None and isinstance(config, ResNet | ConvNext)
    folder = _folder(config)
    if folder is None:
        path = cnn.safetensors_of(config.weights)
        try:
            found = Published.of_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{KEY} {config.weights} cannot be read ({error}): fetch it again") from error
    else:
        published = Published(folder)
        require_alike("model.encoder", config, cnn_of(published, config), FREE, config.weights)
        found = {name: published.tensor(name) for name in published.names}
    state = {short: tensor for name, tensor in found.items() if (short := short_name(name)) is not None}
    _require(net.state_dict(), state, config)
    net.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)


def _require(ours: dict[str, Tensor], theirs: dict[str, Tensor], config: Cnn) -> None:
    """Raises UserError where a tensor is missing, left over, or of another shape."""
    where, wanted = config.weights, {name for name in ours if short_name(name) is not None}
    if lacking := sorted(wanted - theirs.keys()):
        raise UserError(
            f"{where} lacks {lacking[0]} and {len(lacking) - 1} more tensors of this {config.type}: it is another"
        )
    if extra := sorted(theirs.keys() - wanted):
        raise UserError(
            f"{where} has {extra[0]} and {len(extra) - 1} more tensors that this {config.type} does not: it is another"
        )
    for name in sorted(wanted):
        if ours[name].shape != theirs[name].shape:
            raise UserError(
                f"{where} has {name} of shape {tuple(theirs[name].shape)}, this {config.type} wants {tuple(ours[name].shape)}: "
                "set depths and widths to its own"
            )
