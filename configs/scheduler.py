"""What a site's scheduler needs to be told: partition or address, sizes, and how the environment of a job is made."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from configs.base import Config

SECRET = re.compile(r"(?i)(^|_)(secret|token|password|passwd|credentials?|api_?key|access_?key|private_?key)(_|$)")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OPTION = re.compile(r"[a-z][a-z0-9-]*")
TIME = re.compile(r"(\d+-\d+(:\d+){0,2}|\d+:\d+(:\d+)?)")
ADDRESS = re.compile(r"https?://[^/@\s?#]+")
SLURM_ONLY = (
    *("partition", "account", "qos", "reservation", "constraint", "time", "gpu_type", "memory_per_node", "exclusive"),
    *("options", "signal_seconds", "container", "stage_env"),
)
RAY_ONLY = ("address", "token_file", "working_dir", "min_nodes", "wait_seconds")


def _line(text: str) -> str:
    if not text or any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise ValueError(f"{text!r} is empty or has a line break or control character: it must be one line")
    return text


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("a NUL character cannot be passed on: remove it")
    return text


def _time(value: Any) -> Any:
    if not isinstance(value, str) or not TIME.fullmatch(value):
        raise ValueError(f"{value!r} is not a time such as '2:00:00' or '1-00:00:00': write it so, in quotes")
    return value


def _address(text: str) -> str:
    if not ADDRESS.fullmatch(text.rstrip("/")):
        raise ValueError(f"{text!r} is not the address of Ray's Jobs API: write http://HOST:8265, without a password")
    return text.rstrip("/")


Line = Annotated[str, AfterValidator(_line)]
Address = Annotated[str, AfterValidator(_address)]
Text = Annotated[str, AfterValidator(_text)]
Time = Annotated[str, BeforeValidator(_time)]


class ContainerConfig(Config):
    """Where looksay is on the nodes, if it is in an image."""

    runtime: Literal["apptainer", "pyxis"] = Field(..., description="pyxis: srun --container-image")
    image: Line
    mounts: tuple[Line, ...] = Field((), description="FOLDER or FOLDER:INSIDE; the working folder is always there")


class StageConfig(Config):
    """The environment as one file, unpacked on each node's own disk before ranks start: thousands of small files are slow to
    import from a shared file system."""

    archive: Line = Field(..., description="tar of a Python environment (tar -C VENV -cf env.tar .), seen by all nodes")
    folder: Line = Field(
        "/tmp", description="on each node's own disk; the environment goes to a folder of the job's own in it"
    )

    @field_validator("folder")
    @classmethod
    def _whole(cls, folder: str) -> str:
        if not folder.startswith("/"):
            raise ValueError(f"{folder!r} is not a whole path: nodes have no common working folder on their own disks")
        return folder.rstrip("/") or "/"


class SchedulerConfig(Config):
    """How jobs are submitted. No value is ever read by a shell as more than a word."""

    type: Literal["slurm", "ray"]
    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    reservation: Line | None = None
    constraint: Line | None = None
    time: Time | None = Field(None, description="limit of one start; a job goes on by itself until it is done")
    nodes: int = Field(1, ge=1, description="nodes of a training job that does not say --nodes")
    ranks_per_node: int | None = Field(None, ge=1, description="none: its GPUs")
    gpus_per_node: int = Field(0, ge=0)
    gpu_type: Line | None = Field(None, description="the cluster's name of them, if it wants one")
    cpus_per_node: int | None = Field(None, ge=1, description="none: what the cluster gives")
    memory_per_node: Line | None = Field(None, description="such as 400G; 0: all")
    exclusive: bool = Field(False, description="nobody else on the nodes")
    options: dict[str, Line] = Field({}, description="more options of sbatch by their long names, without --")
    signal_seconds: int = Field(
        120,
        ge=60,
        le=65535,
        description="so long before the limit a job is told; SLURM looks twice a minute, and may be a minute early",
    )
    max_requeues: int = Field(1000, ge=0, description="most starts again of one job")
    modules: tuple[Line, ...] = Field((), description="module load, in this order")
    setup_files: tuple[Line, ...] = Field((), description="shell files that are sourced")
    env: dict[str, Text] = Field({}, description="variables of the job; no secrets")
    container: ContainerConfig | None = None
    stage_env: StageConfig | None = Field(None, description="unpack the environment on each node's own disk first")
    looksay: Line | None = Field(None, description="path of the command on the nodes; none: this very one")
    address: Address = Field("http://127.0.0.1:8265", description="ray: its Jobs API, on the head's dashboard")
    token_file: Line | None = Field(None, description="ray: file of the token; none: where Ray itself looks for it")
    working_dir: Line | None = Field(
        None, description="ray: a checkout of looksay that is sent along; none: it is installed on the nodes"
    )
    min_nodes: int | None = Field(
        None, ge=1, description="ray: nodes that training goes on with when the others stay away; none: all of them"
    )
    wait_seconds: float = Field(600.0, gt=0, description="ray: how long a job waits for nodes before it gives up")

    @field_validator("env")
    @classmethod
    def _plain(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a name of an environment variable: use letters, digits and _")
            if SECRET.search(name) or re.search(r"//[^/@\s]+:[^/@\s]+@", value):
                raise ValueError(
                    f"{name} looks like a secret, and scripts can be read by others: export it in a file of mode 600 and "
                    "name that in setup_files"
                )
        return env

    @field_validator("options")
    @classmethod
    def _options(cls, options: dict[str, str]) -> dict[str, str]:
        wrong = [name for name in options if not OPTION.fullmatch(name)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not a long option of sbatch: write it without --, such as licenses")
        return options

    @model_validator(mode="after")
    def _one_home(self) -> "SchedulerConfig":
        others = [name for name in ("container", "looksay") if getattr(self, name) is not None]
        if self.stage_env is not None and others:
            raise ValueError(f"stage_env and {others[0]} both say where looksay is on the nodes: leave one out")
        if self.stage_env is not None and self.type == "ray":
            raise ValueError("stage_env is for slurm: Ray's nodes have an environment already, leave it out")
        return self

    @model_validator(mode="after")
    def _fitting(self) -> "SchedulerConfig":
        """A key that the scheduler would never look at is a mistake."""
        foreign = SLURM_ONLY if self.type == "ray" else RAY_ONLY
        for name in foreign:
            if getattr(self, name) != type(self).model_fields[name].default:
                other = "slurm" if self.type == "ray" else "ray"
                raise ValueError(f"{name} is for {other}, and this scheduler is {self.type}: leave it out")
        return self

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """`scheduler: slurm` is short for a scheduler without more to say."""
        return {"type": value} if isinstance(value, str) else value
