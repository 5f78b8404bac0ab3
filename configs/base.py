"""The base of every configuration model: frozen, and closed to unknown keys."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen piece of a recipe. Unknown keys are errors; values never change after construction."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
