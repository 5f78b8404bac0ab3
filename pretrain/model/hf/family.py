"""What a family is to import and export: its composition, its table of names, and the spellings of these names."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from configs.errors import UserError
from configs.model import ModelConfig
from pretrain.model.hf.rules import Rule

Config = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """How a published folder becomes a composition and back.

    Rules name published tensors in short spelling. `spellings` are (prefix on disk, short prefix) in the order in which
    they are tried; releases of transformers differ in them. `published` says how each short prefix is written out.
    """

    model_of: Callable[[Config], ModelConfig]
    rules_of: Callable[[ModelConfig], list[Rule]]
    spellings: tuple[tuple[str, str], ...] = ()
    published: dict[str, str] = field(default_factory=dict)
    left_aside: Callable[[ModelConfig, str], bool] = lambda model, name: False
    """Whether a published tensor (short name) belongs to no part that is run; it is kept for the way back."""
    remedies: dict[str, str] = field(default_factory=dict)
    """What to do where a tensor under a short prefix is missing, where it is another thing than usual."""
    template: str | None = None
    """The preset of configs/templates.py that its conversations have; none: not one for all of them."""
    chats: tuple[tuple[str, str], ...] = ()
    """(text in the published chat template, preset): the first that is there decides, before `template`."""

    def normalised(self, name: str) -> str:
        """The one short spelling of a name on disk."""
        for prefix, short in self.spellings:
            if name.startswith(prefix):
                return short + name.removeprefix(prefix)
        return name

    def preset(self, chat: str) -> str | None:
        """The text template that goes with a published chat template."""
        return next((preset for mark, preset in self.chats if mark in chat), self.template)

    def remedy(self, name: str) -> str:
        """What to do where the tensor of a short name is missing."""
        special = (said for prefix, said in self.remedies.items() if name.startswith(prefix))
        return next(special, "fetch it again, or correct config.json")

    def published_name(self, name: str) -> str:
        """The spelling on disk of a short name."""
        for short, prefix in self.published.items():
            if name.startswith(short):
                return prefix + name.removeprefix(short)
        return name


def computed(name: str) -> bool:
    """Whether a tensor is a table that older code saved though it is computed from the configuration."""
    return name.endswith((".rotary_emb.inv_freq", ".position_ids"))


ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def activation_of(name: str) -> Any:
    """Our name of a published activation.

    Raises:
        UserError: it is none that is known.
    """
    if name not in ACTIVATIONS:
        raise UserError(
            f"config.json has activation {name!r}: what can be imported is {', '.join(sorted(ACTIVATIONS))}"
        )
    return ACTIVATIONS[name]


def only(config: Config, key: str, default: Any, *allowed: Any) -> None:
    """Raises UserError where `config[key]` is none of `allowed`."""
    if config.get(key, default) not in allowed:
        wanted = " or ".join(repr(value) for value in allowed)
        raise UserError(f"config.json has {key} {config[key]!r}: only {wanted} can be imported")
