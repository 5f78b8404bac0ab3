"""Pictures of a dataset as prompts need them: cached features for a frozen CNN, pixels otherwise; and blank ones."""

from typing import Any

import numpy as np

from configs.encoders import Cnn
from configs.errors import UserError
from data_pipeline.stream.collate import Ready
from data_pipeline.stream.images import decode, views_of
from data_pipeline.stream.layout import picture_layout
from data_pipeline.stream.read.dataset import Dataset
from pretrain.answering import OpenRun
from pretrain.features import FeatureCache
from pretrain.generate import Prompt
from pretrain.model.frozen import load_cnn


def mean_colour(dataset: Dataset, pictures: int = 500) -> np.ndarray:
    """Mean colour [3] uint8 over pictures spread through a dataset.

    Raises:
        UserError: it holds no picture.
    """
    seen = [index for index in range(len(dataset)) if dataset.image_hashes(index)]
    if not seen:
        raise UserError(f"{dataset.folder} holds no picture: give a dataset with pictures")
    count = min(pictures, len(seen))
    chosen = [seen[i * len(seen) // count] for i in range(count)]
    means = [decode(dataset.read(index).images[0]).reshape(-1, 3).mean(0) for index in chosen]
    return np.asarray(np.round(np.mean(means, 0)), np.uint8)


class Pictures:
    """Prompts about the pictures of a dataset. Making one fills the feature cache: a collective.

    Args:
        blank: colour [3] of the blank picture; none: there will be none.
    """

    def __init__(self, opened: OpenRun, dataset: Dataset, blank: np.ndarray | None = None):
        self.opened, self.dataset, self.colour = opened, dataset, blank
        self.cnn = isinstance(opened.recipe.model.encoder, Cnn)
        self.cache: FeatureCache | None = None
        self._encoder: Any = None
        if self.cnn:
            self.cache = FeatureCache(opened.recipe.model, [dataset])
            self.cache.fill(opened.mesh)
        self._blanks: dict[tuple[int, int], dict[str, Any]] = {}

    def ready(self, sample: int) -> Ready:
        """A whole sample, as it was stored."""
        stored, sizes = self.dataset.read(sample), self.dataset.sizes(sample)
        encoded = self.opened.chat.encode(stored.conversation, len(sizes))
        if self.cache is not None:
            return Ready(encoded, sizes, features=self.cache.get(0, sample))
        return Ready(encoded, sizes, images=[decode(image) for image in stored.images])

    def prompt(self, messages: Any, sample: int, picture: int, blank: bool = False) -> Prompt:
        """One picture (or a blank of its size) under messages; None asks for a caption."""
        encoded = self.opened.chat.prompt(messages, 1)
        size = self.dataset.sizes(sample)[picture]
        if blank:
            return Prompt(encoded, [size], **self.blank(size))
        if self.cache is not None:
            return Prompt(encoded, [size], features=[self.cache.get(0, sample)[picture]])
        return Prompt(encoded, [size], images=[decode(self.dataset.read(sample).images[picture])])

    def blank(self, size: tuple[int, int]) -> dict[str, Any]:
        """{features} or {images} of a blank picture of `size` (width, height)."""
        if size not in self._blanks:
            assert self.colour is not None
            picture = np.broadcast_to(self.colour, (size[1], size[0], 3)).copy()
            self._blanks[size] = (
                {"images": [picture]} if self.cache is None else {"features": [self._encode(picture, size)]}
            )
        return self._blanks[size]

    def _encode(self, picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        config = self.opened.recipe.model.encoder
        assert isinstance(config, Cnn)
        if self._encoder is None:
            self._encoder = load_cnn(config, 0, self.opened.mesh.device)
        views = views_of(picture, picture_layout(*size, self.opened.geometry), self.opened.geometry.cell)
        merge = self.opened.geometry.merge
        encoded = [part.cpu().numpy() for part in self._encoder.encode(views, self.opened.mesh.device, merge=merge)]
        return np.concatenate(encoded).astype(np.float16)
