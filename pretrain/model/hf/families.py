"""Which family a published folder is of, and its table turned into checks: no unused, no missing, right shape."""

from dataclasses import dataclass

from configs.errors import UserError
from configs.model import ModelConfig
from pretrain.model.hf import blip2, idefics3, internvl, llava, original_llava, paligemma, qwen2_vl
from pretrain.model.hf.family import Config, Family
from pretrain.model.hf.published import Published
from pretrain.model.hf.rules import Rule

FAMILIES = {
    "blip-2": blip2.FAMILY,
    "idefics3": idefics3.FAMILY,
    "internvl": internvl.FAMILY,
    "llava": llava.FAMILY,
    "llava_next": llava.FAMILY,
    "paligemma": paligemma.FAMILY,
    "qwen2_vl": qwen2_vl.FAMILY,
    "qwen2_5_vl": qwen2_vl.FAMILY,
    "smolvlm": idefics3.FAMILY,
}
"""By `model_type` of config.json."""


def family_of(config: Config, where: str) -> Family:
    """Raises UserError where `model_type` is none that is known."""
    if "mm_vision_tower" in config:  # with the same model_type as transformers' LLaVA
        return original_llava.FAMILY
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
    pairs, used = [], set()
    for rule in family.rules_of(model):
        name = names.get(rule.theirs)
        if name is None:
            raise UserError(
                f"{published.folder} lacks {family.published_name(rule.theirs)}: {family.remedy(rule.theirs)}"
            )
        shape = published.shape(name)
        if shape != rule.published:
            raise UserError(
                f"{published.folder} has {name} of shape {shape}, its config.json says {rule.published}: they do not belong together"
            )
        used.add(rule.theirs)
        pairs.append((rule, name))
    aside = {short: name for short, name in names.items() if family.left_aside(model, short)}
    # What a tied head is saved as a second time has nothing new.
    extra = [name for short, name in names.items() if short not in used | aside.keys() and short != "head.weight"]
    if extra:
        raise UserError(
            f"{published.folder} has {extra[0]} and {len(extra) - 1} more tensors that this family does not: it is another model"
        )
    return Matched(model, pairs, list(aside.values()))
