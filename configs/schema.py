"""The two kinds of recipe: `build` makes a dataset, `train` makes a run."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, model_validator

from configs.base import Config
from configs.data import DataConfig
from configs.ingest import (
    ComposeConfig,
    DedupConfig,
    FetchConfig,
    FiltersConfig,
    ImagesConfig,
    RayConfig,
    Source,
    StorageConfig,
    TextConfig,
)
from configs.model import ModelConfig
from configs.training import (
    CheckpointConfig,
    EvaluateConfig,
    LogConfig,
    OptimConfig,
    ParallelConfig,
    StageConfig,
)


class BuildRecipe(Config):
    """Image-text records in, a dataset folder of WebDataset tars out."""

    kind: Literal["build"]
    name: str
    source: Source
    output: str
    compose: ComposeConfig | None = None
    storage: StorageConfig = StorageConfig()
    fetch: FetchConfig = FetchConfig()
    images: ImagesConfig = ImagesConfig()
    text: TextConfig = TextConfig()
    filters: FiltersConfig = FiltersConfig()
    dedup: DedupConfig = DedupConfig()
    shard_size: int = Field(1000, ge=1, description="kept samples of a shard; all but the last have just so many")
    unit_size: int = Field(256, ge=1, description="input rows of one work unit")
    ray: RayConfig = RayConfig()


class TrainRecipe(Config):
    """Datasets and a model in, a run folder out."""

    kind: Literal["train"]
    name: str
    seed: int = Field(0, ge=0)
    model: ModelConfig
    data: DataConfig
    stage: StageConfig
    optim: OptimConfig = OptimConfig()
    parallel: ParallelConfig = ParallelConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _sizes(self) -> "TrainRecipe":
        heads, tp = self.model.decoder.heads, self.parallel.tp
        if heads % tp:
            fits = [n for n in range(1, heads + 1) if heads % n == 0]
            raise ValueError(f"parallel.tp {tp} does not divide the decoder's {heads} heads: use one of {fits}")
        if self.parallel.zero == 0 and self.parallel.precision == "bf16":
            raise ValueError(
                "parallel.zero 0 cannot keep fp32 master weights beside bf16 ones: use zero 1, or precision fp32"
            )
        if self.optim.warmup_steps > self.stage.steps:
            raise ValueError(f"optim.warmup_steps {self.optim.warmup_steps} is above stage.steps {self.stage.steps}")
        return self


Recipe = Annotated[BuildRecipe | TrainRecipe, Field(discriminator="kind")]
RECIPE: TypeAdapter[BuildRecipe | TrainRecipe] = TypeAdapter(Recipe)
