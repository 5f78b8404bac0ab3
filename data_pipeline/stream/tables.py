"""A recipe's data, opened: datasets, chat, geometry, and the planner over their lengths."""

from collections.abc import Callable
from dataclasses import dataclass

from configs.encoders import Cnn
from configs.schema import TrainRecipe
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.counts.lengths import DatasetLengths, Policy
from data_pipeline.stream.layout import Geometry, geometry_of
from data_pipeline.stream.making import Features, Maker
from data_pipeline.stream.plan.planner import Planner
from data_pipeline.stream.plan.window import PlanSettings
from data_pipeline.stream.read.dataset import Dataset


@dataclass(frozen=True)
class Sources:
    """What is read, without the order of it."""

    datasets: list[Dataset]
    labels: list[str]
    chat: Chat
    geometry: Geometry
    cnn: bool

    def maker(self, recipe: TrainRecipe, features: Features | None = None) -> Maker:
        """Makes micro-steps of these sources."""
        data = recipe.data
        return Maker(
            self.datasets,
            self.labels,
            self.chat,
            self.geometry,
            length=data.packing.length,
            long_samples=data.long_samples,
            cnn=self.cnn,
            features=features,
        )


@dataclass(frozen=True)
class OpenData(Sources):
    """What loader, statistics and `inspect` share."""

    planner: Planner


def open_sources(recipe: TrainRecipe) -> Sources:
    """Open what a training recipe reads, and count nothing.

    Raises:
        UserError: a dataset or the tokenizer is missing or unusable.
    """
    data, geometry = recipe.data, geometry_of(recipe.model)
    chat = Chat(data.tokenizer, data.template)
    chat.require_marks(geometry)
    return Sources(
        [Dataset(source.path, data.read) for source in data.sources],
        [source.label for source in data.sources],
        chat,
        geometry,
        isinstance(recipe.model.encoder, Cnn),
    )


def open_data(
    recipe: TrainRecipe,
    *,
    sources: Sources | None = None,
    plan_log: str | None = None,
    write_log: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> OpenData:
    """Open everything that a training recipe reads. Counts tokens once per dataset and tokenizer.

    Args:
        sources: what is open already.
        plan_log, write_log: file of the windows' starts, and whether this process appends to it.
        progress: told (window, wanted window) while a step that was never planned is reached.

    Raises:
        UserError: a dataset or the tokenizer is missing or unusable.
    """
    data, sources = recipe.data, sources or open_sources(recipe)
    policy = Policy(data.packing.length, data.long_samples)
    tables = [
        DatasetLengths(dataset, label, number, sources.chat, sources.geometry, policy)
        for number, (dataset, label) in enumerate(zip(sources.datasets, sources.labels, strict=True))
    ]
    planner = Planner(
        tables,
        lambda step: [source.weight_at(step) for source in data.sources],
        settings_of(recipe),
        recipe.seed,
        mixture=data.mixture,
        identity={f"{source.label}: weight": str(source.weight) for source in data.sources},
        log=plan_log,
        write=write_log,
        progress=progress,
    )
    return OpenData(sources.datasets, sources.labels, sources.chat, sources.geometry, sources.cnn, planner)


def settings_of(recipe: TrainRecipe) -> PlanSettings:
    """The planner's settings out of a recipe."""
    packing = recipe.data.packing
    return PlanSettings(
        length=packing.length,
        rows_per_step=packing.rows_per_step,
        window_steps=packing.window_steps,
        chunk=recipe.data.chunk,
        max_images_per_row=packing.max_images_per_row,
        max_patches_per_row=packing.max_patches_per_row,
        max_carry_windows=packing.max_carry_windows,
        balance=packing.balance,
    )
