"""A recipe's data, opened: datasets, chat, geometry, and the planner over their lengths."""

from dataclasses import dataclass

import numpy as np

from configs.model import EfficientNetLite0
from configs.schema import TrainRecipe
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.layout import Geometry, geometry_of, grid_of
from data_pipeline.stream.plan.planner import Planner, PlanSettings, SampleTable
from data_pipeline.stream.reader import Dataset
from data_pipeline.stream.tokens import token_counts


@dataclass(frozen=True)
class OpenData:
    """What loader, statistics and `inspect` share."""

    datasets: list[Dataset]
    labels: list[str]
    chat: Chat
    geometry: Geometry
    planner: Planner
    cnn: bool


def open_data(recipe: TrainRecipe) -> OpenData:
    """Open everything that a training recipe reads. Counts tokens once per dataset and tokenizer.

    Raises:
        UserError: a dataset or the tokenizer is missing or unusable.
    """
    chat = Chat(recipe.data.tokenizer, recipe.data.template)
    geometry = geometry_of(recipe.model)
    datasets = [Dataset(source.path) for source in recipe.data.sources]
    labels = [source.label for source in recipe.data.sources]
    tables = [sample_table(d, label, chat, geometry) for d, label in zip(datasets, labels, strict=True)]
    packing = recipe.data.packing
    settings = PlanSettings(
        length=packing.length,
        rows_per_step=packing.rows_per_step,
        window_steps=packing.window_steps,
        chunk=recipe.data.chunk,
        max_images_per_row=packing.max_images_per_row,
        max_carry_windows=packing.max_carry_windows,
        balance=packing.balance,
    )
    planner = Planner(tables, [source.weight for source in recipe.data.sources], settings, recipe.seed)
    return OpenData(datasets, labels, chat, geometry, planner, isinstance(recipe.model.encoder, EfficientNetLite0))


def sample_table(dataset: Dataset, label: str, chat: Chat, geometry: Geometry) -> SampleTable:
    """Lengths of a dataset under a tokenizer, template and geometry. Pictures of a size are measured once."""
    text, labels = token_counts(dataset, chat)
    sizes = np.stack([dataset.widths.values, dataset.heights.values], 1).reshape(-1, 2)
    visual_of_size = np.zeros(0, np.int64)
    which = np.zeros(len(sizes), np.int64)
    if len(sizes):
        distinct, which = np.unique(sizes, axis=0, return_inverse=True)
        grids = [grid_of(int(w), int(h), geometry) for w, h in distinct]
        visual_of_size = np.array([rows * columns for rows, columns in grids], np.int64)
    running = (
        np.concatenate([[0], np.cumsum(visual_of_size[which.reshape(-1)])]) if len(sizes) else np.zeros(1, np.int64)
    )
    offsets = dataset.widths.offsets
    visual = (running[offsets[1:]] - running[offsets[:-1]]).astype(np.int32)
    # A sample that the tokenizer pass could not read has no length, and is never drawn.
    tokens = np.where(text > 0, text + visual, 0).astype(np.int32)
    return SampleTable(
        label, dataset.fingerprint, tokens, labels, visual * geometry.merge**2, dataset.widths.counts.astype(np.int32)
    )
