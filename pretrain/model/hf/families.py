"""Which family a published folder is of, and its table turned into checks: no unused, no missing, right shape."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from configs.errors import UserError
from configs.model import ModelConfig
from pretrain.model.hf import llava
from pretrain.model.hf.published import Published
from pretrain.model.hf.rules import Rule


@dataclass(frozen=True)
class Family:
    """How a published folder becomes a composition and back."""

    model_of: Callable[[dict[str, Any]], ModelConfig]
    rules_of: Callable[[ModelConfig], list[Rule]]
    left_aside: Callable[[ModelConfig, str], bool]
    normalised: Callable[[str], str]
    published_name: Callable[[str], str]


FAMILIES = {
    "llava": Family(llava.model_of, llava.rules_of, llava.left_aside, llava.normalised, llava.published_name),
}


def family_of(config: dict[str, Any], where: str) -> Family:
    """Raises UserError where `model_type` is none that is known."""
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise UserError(f"{where} has model_type {kind!r}: what can be imported is {', '.join(sorted(FAMILIES))}")
    return FAMILIES[str(kind)]


@dataclass(frozen=True)
class Matched:
    """Each rule with the published name it takes its tensor from, and names that belong to no part that is run."""

    model: ModelConfig
    pairs: list[tuple[Rule, str]]
    aside: list[str]


def match(published: Published) -> Matched:
    """Hold a folder against its family's table.

    Raises:
        UserError: a tensor is missing, one is left over, or one has another shape.
    """
    family = family_of(published.config, str(published.folder / "config.json"))
    model = family.model_of(published.config)
    names = {family.normalised(name): name for name in published.names}
    pairs = []
    for rule in family.rules_of(model):
        name = names.pop(rule.theirs, None)
        if name is None:
            raise UserError(
                f"{published.folder} lacks {family.published_name(rule.theirs)}: fetch it again, or correct config.json"
            )
        shape = published.shape(name)
        if shape != rule.published:
            raise UserError(
                f"{published.folder} has {name} of shape {shape}, its config.json says {rule.published}: they do not belong together"
            )
        pairs.append((rule, name))
    # What a tied head is saved as a second time has nothing new.
    extra = [name for short, name in names.items() if not family.left_aside(model, short) and short != "head.weight"]
    if extra:
        raise UserError(
            f"{published.folder} has {extra[0]} and {len(extra) - 1} more tensors that this family does not: it is another model"
        )
    return Matched(model, pairs, [name for short, name in names.items() if family.left_aside(model, short)])
