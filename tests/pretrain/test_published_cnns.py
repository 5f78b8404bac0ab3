"""ResNet and ConvNeXt: features of transformers' classes from their own folders; a folder of another network is refused."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.cost.cnn import parameters
from configs.encoders import Cnn, ConvNext, EfficientNetLite0, ResNet
from configs.errors import UserError
from pretrain.model.convolutional import FrozenCnn
from pretrain.model.frozen import count_parameters, load_cnn, weight_files
from tests.families.conftest import transformers  # noqa: F401

HOST = torch.device("cpu")
DEPTHS, WIDTHS = (1, 3, 2), (16, 24, 40)
TINY: dict[str, Cnn] = {
    "bottleneck": ResNet(depths=DEPTHS, widths=WIDTHS, stem=16),
    "basic": ResNet(depths=DEPTHS, widths=WIDTHS, stem=12, block="basic"),
    "convnext": ConvNext(depths=DEPTHS, widths=WIDTHS),
    "without scale": ConvNext(depths=(2, 1), widths=(12, 12), layer_scale=False),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads that wait for a busy processor take a hundred times as long as one (measured)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def theirs(library: Any, config: Cnn) -> Any:
    """(class of the model, class of its classifier, configuration) in transformers."""
    assert isinstance(config, ResNet | ConvNext)
    shape: dict[str, Any] = {"depths": list(config.depths), "hidden_sizes": list(config.widths)}
    if isinstance(config, ResNet):
        made = library.ResNetConfig(embedding_size=config.stem, layer_type=config.block, **shape)
        return library.ResNetModel, library.ResNetForImageClassification, made
    scale = 0.1 if config.layer_scale else 0.0
    made = library.ConvNextConfig(num_stages=len(config.depths), layer_scale_init_value=scale, **shape)
    return library.ConvNextModel, library.ConvNextForImageClassification, made


def randomised(model: Any) -> Any:
    """Every tensor is random, running statistics too; matrices of a size that keeps features near one."""
    random = torch.Generator().manual_seed(5)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=random)
        if tensor.dtype != torch.float32:
            continue
        if tensor.dim() > 1:
            noise *= (2 * tensor[0].numel()) ** -0.5
        elif name.endswith(("weight", "running_var", "layer_scale_parameter")):
            noise = 0.5 + torch.rand(tensor.shape, generator=random)
        tensor.copy_(noise * (0.3 if name.endswith(("bias", "running_mean")) else 1.0))
    return model.eval()


@pytest.fixture(scope="module", params=list(TINY))
def published(request: Any, transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Cnn]:  # noqa: F811
    """(the model, its folder as `save_pretrained` makes it, our settings) of a tiny network."""
    config = TINY[request.param]
    kind, _, made = theirs(transformers, config)
    folder = tmp_path_factory.mktemp("cnn") / "published"
    with torch.no_grad():
        model = randomised(kind(made))
    model.save_pretrained(folder)
    return model, folder, config.model_copy(update={"weights": str(folder)})


def pictures(config: Cnn) -> list[np.ndarray]:
    """Noise of several shapes, none of them square, two alike."""
    random, cell = np.random.default_rng(0), config.patch
    shapes = ((2, 3), (4, 1), (2, 3), (3, 5))
    return [random.integers(0, 256, (r * cell, c * cell, 3), dtype=np.uint8) for r, c in shapes]


def wanted_of(model: Any, config: Cnn, picture: np.ndarray) -> torch.Tensor:
    """[cells, C] of transformers' model, with the pixel scales of ImageNet."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (torch.from_numpy(picture) / 255 - mean) / std
    with torch.no_grad():
        found = model(pixels.permute(2, 0, 1)[None]).last_hidden_state[0]
    assert found.shape[1:] == (picture.shape[0] // config.patch, picture.shape[1] // config.patch)
    return found.flatten(1).T


def worst(net: FrozenCnn, model: Any, config: Cnn) -> float:
    found = net.encode(pictures(config), HOST, 2)
    pairs = zip(found, pictures(config), strict=True)
    return max(float((ours - wanted_of(model, config, picture)).abs().max()) for ours, picture in pairs)


def test_features_are_those_of_transformers(published: tuple[Any, Path, Cnn]) -> None:
    """Batched and folded. Measured worst 1.1e-6 on features up to 3.7; pixel scales of CLIP give 0.01 and more."""
    model, _, config = published
    assert worst(load_cnn(config, 0, HOST), model, config) <= 1e-5
    other = config.model_copy(update={"pixel_mean": (0.481, 0.458, 0.408), "pixel_std": (0.269, 0.261, 0.276)})
    assert float(wanted_of(model, config, pictures(config)[0]).std()) > 0.1
    unchecked = other.model_copy(update={"weights": str(next(Path(config.weights or "").glob("*.safetensors")))})
    assert worst(load_cnn(unchecked, 0, HOST), model, config) > 1e-2


def test_every_tensor_matters(published: tuple[Any, Path, Cnn], tmp_path: Path) -> None:
    """Each tensor of the folder, moved alone, moves the features; the norm behind the pooling is the one exception."""
    _, folder, config = published
    shutil.copytree(folder, tmp_path / "moved")
    path = tmp_path / "moved" / "model.safetensors"
    before, picture = load_file(path), pictures(config)[:1]
    (plain,) = load_cnn(config, 0, HOST).encode(picture, HOST)
    idle = []
    for name, tensor in before.items():
        save_file({**before, name: tensor + 1 if tensor.dim() == 0 else tensor * 1.5 + 0.1}, path, {"format": "pt"})
        (made,) = load_cnn(config.model_copy(update={"weights": str(path.parent)}), 0, HOST).encode(picture, HOST)
        if float((made - plain).abs().max()) < 1e-4:
            idle.append(name)
    assert all(name.startswith("layernorm.") or name.endswith("num_batches_tracked") for name in idle), idle
    assert len(before) > 20


def test_a_classifier_and_a_file_give_the_same(
    published: tuple[Any, Path, Cnn],
    transformers: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    model, _, config = published
    _, kind, made = theirs(transformers, config)
    whole = kind(made)
    whole.base_model.load_state_dict(model.state_dict())
    whole.save_pretrained(tmp_path / "classifier")
    torch.save(whole.state_dict(), tmp_path / "net.pth")
    (wanted,) = load_cnn(config, 0, HOST).encode(pictures(config)[:1], HOST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOOKSAY_CACHE", str(tmp_path / "cache"))
        for place in ("classifier", "classifier/model.safetensors", "net.pth"):
            named = config.model_copy(update={"weights": str(tmp_path / place)})
            (found,) = load_cnn(named, 0, HOST).encode(pictures(config)[:1], HOST)
            assert torch.equal(found, wanted), place
            assert [path.suffix for path in weight_files(named)] == [".safetensors"]


@pytest.mark.parametrize("config", [ResNet(), ConvNext(), *TINY.values()], ids=["resnet50", "convnext_t", *TINY])
def test_names_and_shapes_are_the_published_ones(transformers: Any, config: Cnn) -> None:  # noqa: F811
    """Tensor by tensor on the meta device, at the published sizes as well; counted without the network too."""
    from pretrain.model.frozen import _network
    from pretrain.model.hf.cnns import short_name

    kind, _, made = theirs(transformers, config)
    with torch.device("meta"):
        ours, wanted = _network(config).state_dict(), kind(made).state_dict()
    left = {name for name in wanted if short_name(name) is None}
    kept = {name: tuple(tensor.shape) for name, tensor in wanted.items() if name not in left}
    assert {name: tuple(t.shape) for name, t in ours.items() if short_name(name) is not None} == kept
    norms = 2 * config.widths[-1] if isinstance(config, ConvNext) else 0  # type: ignore[attr-defined]
    with torch.device("meta"):
        counted = sum(parameter.numel() for parameter in kind(made).parameters()) - norms
    assert count_parameters(config) == parameters(config) == counted


def test_random_weights_tell_pictures_apart() -> None:
    for name, config in TINY.items():
        net = load_cnn(config, 3, HOST)
        first, other = (features.mean(0) for features in net.encode(pictures(config)[::2], HOST))
        assert 1e-3 < float((first - other).abs().max()) < 1e3, name
        (again,) = load_cnn(config, 3, HOST).encode(pictures(config)[:1], HOST)
        assert torch.equal(again, net.encode(pictures(config)[:1], HOST)[0])
        assert not any(parameter.requires_grad for parameter in net.parameters()) and not net.train().training


# ---- other networks ----------------------------------------------------------------------------------------------


def renamed(state: dict[str, torch.Tensor]) -> None:
    name = sorted(state)[0]
    state[f"{name}.more"] = state.pop(name)


def added(state: dict[str, torch.Tensor]) -> None:
    state["encoder.stages.9.weight"] = torch.zeros(1)


def cut(state: dict[str, torch.Tensor]) -> None:
    name = next(name for name in sorted(state) if state[name].dim() == 4)
    state[name] = state[name][:-1].contiguous()


@pytest.mark.parametrize(("change", "says"), [(renamed, "lacks"), (added, "does not"), (cut, "of shape")])
def test_a_tensor_that_does_not_fit_is_refused(
    published: tuple[Any, Path, Cnn], tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], says: str
) -> None:
    _, folder, config = published
    shutil.copytree(folder, tmp_path / "changed")
    path = tmp_path / "changed" / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, {"format": "pt"})
    with pytest.raises(UserError, match=says) as refused:
        load_cnn(config.model_copy(update={"weights": str(path.parent)}), 0, HOST)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "regnet"}, "has model_type 'regnet'"),
        ({"depths": [1, 1, 9]}, r"depths \[1, 3, 2\] \(the file has \[1, 1, 9\]\)"),
        ({"hidden_act": "silu"}, "has hidden_act 'silu': only 'relu' is computed here"),
        ({"downsample_in_bottleneck": True}, "only False is computed here"),
        ({"layer_type": "basic"}, r"block bottleneck \(the file has basic\)"),
    ],
)
def test_another_network_is_refused(transformers: Any, tmp_path: Path, changes: dict[str, Any], says: str) -> None:  # noqa: F811
    kind, _, made = theirs(transformers, TINY["bottleneck"])
    kind(made).save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=says):
        load_cnn(TINY["bottleneck"].model_copy(update={"weights": str(tmp_path)}), 0, HOST)


def test_pixel_scales_of_the_folder_are_held_against_the_recipe(transformers: Any, tmp_path: Path) -> None:  # noqa: F811
    kind, _, made = theirs(transformers, TINY["convnext"])
    kind(made).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5, 0.5, 0.5]}))
    named = TINY["convnext"].model_copy(update={"weights": str(tmp_path)})
    with pytest.raises(UserError, match=r"set model.encoder.pixel_mean: \[0.5, 0.5, 0.5\]"):
        load_cnn(named, 0, HOST)
    load_cnn(named.model_copy(update={"pixel_mean": (0.5, 0.5, 0.5)}), 0, HOST)


def test_pickled_folders_and_folders_for_efficientnet_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="is pickled"):
        load_cnn(ResNet(weights=str(tmp_path)), 0, HOST)
    with pytest.raises(UserError, match="is a folder: name one of its files"):
        load_cnn(EfficientNetLite0(weights=str(tmp_path)), 0, HOST)
    with pytest.raises(UserError, match="does not exist"):
        load_cnn(ResNet(weights=str(tmp_path / "nothing" / "here" / "at_all")), 0, HOST)
