"""Facts of a cluster: `hardware` for estimates, each figure with its source, and `scheduler` for submission."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from configs.base import Config
from configs.errors import UserError
from configs.listing import ENDINGS, SITES, find_sites, nearest
from configs.scheduler import ContainerConfig, SchedulerConfig, StageConfig

MAX_EXTENDS = 10
Share = Annotated[float, Field(gt=0, le=1)]
ByType = Annotated[dict[Literal["bf16", "fp32"], Share], Field(min_length=1)]
"""A share for each dtype of matrix products."""


class LinkConfig(Config):
    """A path between two devices."""

    gb_per_s: float = Field(
        ..., gt=0, description="what one device sends in one direction in large collectives, 1e9 bytes"
    )
    latency_us: float = Field(..., ge=0, description="of one hop of a collective")


class EngineConfig(Config):
    """What DeepSpeed and AdamW take on the host around the work itself, under one ZeRO stage."""

    parameter_us: float = Field(0.0, ge=0, description="around each parameter in a micro-step")
    module_us: float = Field(0.0, ge=0, description="around each module that is gathered, in a micro-step")
    element_ns: float = Field(0.0, ge=0, description="of each trained element in a micro-step (gradients kept in fp32)")
    update_us: float = Field(0.0, ge=0, description="of each parameter in an update")
    update_ns: float = Field(..., gt=0, description="of each element that a rank updates")


class HardwareConfig(Config):
    """What a node is made of. Every figure has a line in `sources`: where it is from, or how it was measured."""

    kind: Literal["gpu", "host"] = Field(..., description="host: ranks share out the cores of a node")
    device: str = Field(..., description="what one device is; on a host site, one core")
    devices_per_node: int = Field(..., ge=1)
    nodes: int = Field(1, ge=1, description="most nodes of one job")
    memory_gb: float = Field(..., gt=0, description="of one device, 1e9 bytes")
    reserved_gb: float = Field(0.0, ge=0, description="of it, what drivers and communication take")
    fragmentation: float = Field(0.0, ge=0, lt=1, description="allowance on what a step allocates")
    peak_tflops: dict[Literal["bf16", "fp32"], float] = Field(..., min_length=1, description="dense matrix products")
    attention: Literal["bf16", "fp32"] | None = Field(None, description="dtype of attention; none: that of products")
    matmul_efficiency: Share | ByType = Field(..., description="share of the peak that large matrix products reach")
    attention_efficiency: float = Field(..., gt=0, le=1, description="share of the peak in attention kernels")
    memory_gb_per_s: float = Field(..., gt=0)
    memory_efficiency: Share | ByType = Field(0.8, description="share of it that elementwise kernels reach")
    launch_us: float = Field(0.0, ge=0, description="what an operation costs beside its work")
    host_ms: float = Field(0.0, ge=0, description="of a step on the host that nothing hides")
    engine: dict[Annotated[int, Field(ge=0, le=3)], EngineConfig] = Field(
        {}, description="ZeRO stage -> what the engine takes; without it an update is bytes at memory_gb_per_s"
    )
    intra_node: LinkConfig
    inter_node: LinkConfig | None = None
    overlap: float = Field(0.0, ge=0, le=1, description="share of a pass's compute that hides collectives beside it")
    storage_gb_per_s: float = Field(..., gt=0, description="what one node writes of a checkpoint")
    storage_limit_gb_per_s: float | None = Field(None, gt=0, description="what all nodes together write")
    mtbf_hours: float | None = Field(None, gt=0, description="of one device: mean time between failures that end a job")
    restart_minutes: float = Field(10.0, ge=0, description="from a failure to the first step after it")
    jitter: float = Field(
        0.02, ge=0, lt=1, description="spread of a rank's micro-step time from causes outside the plan"
    )
    sources: dict[str, str] = Field(..., description="figure -> where it is from")

    def share(self, given: float | dict[Any, float], dtype: str) -> float:
        """An efficiency for a dtype of matrix products; one that the site does not name works as the least of the others."""
        return given if isinstance(given, float) else given.get(dtype, min(given.values()))

    @model_validator(mode="after")
    def _sourced(self) -> "HardwareConfig":
        given = self.model_fields_set - {"kind", "device", "attention", "sources"}
        missing = sorted(name for name in given if not self.sources.get(name, "").strip())
        if missing:
            raise ValueError(f"sources has no line for {', '.join(missing)}: say where each figure is from")
        if self.reserved_gb >= self.memory_gb:
            raise ValueError(f"reserved_gb {self.reserved_gb} leaves nothing of memory_gb {self.memory_gb}")
        return self


class SiteConfig(Config):
    """One cluster."""

    name: str
    hardware: HardwareConfig | None = Field(None, description="what estimates need")
    scheduler: SchedulerConfig | None = Field(None, description="how jobs are submitted")


def load_site(name: str) -> SiteConfig:
    """A packaged site by name, or the YAML file of one. `extends: SITE` lies below what the file says itself.

    Raises:
        UserError: there is none (says the nearest name), or a key is wrong.
    """
    path = _path_of(name)
    tree = _tree_of(path)
    try:
        return SiteConfig.model_validate({"name": path.stem, **tree})
    except ValidationError as error:
        said = [_sentence(problem) for problem in error.errors()]
    raise UserError(f"site {path}: {'; '.join(said)}")


def load_hardware(name: str) -> HardwareConfig:
    """The hardware of a site.

    Raises:
        UserError: as `load_site`; or the site does not say what it is made of.
    """
    hardware = load_site(name).hardware
    if hardware is None:
        raise UserError(f"site {name} has no hardware: add it, or `extends: h100-8x` or another of {SITES}")
    return hardware


def _path_of(name: str, beside: Path | None = None) -> Path:
    path = Path(name) if beside is None else beside / name
    if path.suffix not in ENDINGS:
        known = find_sites()
        if name not in known:
            raise UserError(f"no site is called {name!r}: {nearest(name, known)} (a file of your own ends in .yaml)")
        path = known[name]
    if not path.is_file():
        raise UserError(f"site file {path} does not exist: check the path, or start from one in {SITES}")
    return path


def _tree_of(path: Path, depth: int = 0) -> dict[str, Any]:
    import yaml

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"site {path} is not YAML: {' '.join(str(error).split())}; correct that line") from None
    if not isinstance(tree, dict):
        raise UserError(f"site {path} holds {type(tree).__name__}, not keys and values: start from one in {SITES}")
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if depth >= MAX_EXTENDS:
        raise UserError(f"site {path} extends itself, or more than {MAX_EXTENDS} others: break the chain")
    packaged = Path(str(base)).suffix not in ENDINGS
    return _merged(_tree_of(_path_of(str(base), None if packaged else path.parent), depth + 1), tree)


def _merged(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    if below.get("type", above.get("type")) != above.get("type", below.get("type")):
        return above  # another scheduler: what is said of the first means nothing to it
    return {**below, **{key: _merged(below.get(key), value) for key, value in above.items()}}


def _sentence(problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        holders: dict[str, type[Config]] = {
            "hardware": HardwareConfig,
            "scheduler": SchedulerConfig,
            "scheduler.container": ContainerConfig,
            "scheduler.stage_env": StageConfig,
        }
        known = holders.get(path.rpartition(".")[0], SiteConfig).model_fields
        return f"unknown key {path}: {nearest(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return f"key {path} is missing: set it"
    if problem["type"] == "value_error":
        said = str(problem["msg"]).removeprefix("Value error, ")
        return f"{path}: {said}"
    return f"{path} is {problem['input']!r}: {problem['msg'][0].lower() + problem['msg'][1:]}"
