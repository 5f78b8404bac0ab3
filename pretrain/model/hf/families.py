"""Which family a published folder is of, and its table turned into checks: no unused, no missing, right shape."""

from dataclasses import dataclass

from configs.errors import UserError
from configs.model import ModelConfig
from pretrain.model.hf import blip2, cogvlm, idefics3, internvl, llava, original_llava, paligemma, qwen2_vl, qwen_vl
from pretrain.model.hf.family import Config, Family
from pretrain.model.hf.processor import chat_template_of, fitted, processor_of
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
    original = _original(config)
    if original is not None:
        return original
    kind = config.get("model_type")
    if kind not in FAMILIES:
        known = ", ".join([*sorted(FAMILIES), *ORIGINALS])
        raise UserError(f"{where} has model_type {kind!r}: what can be imported is {known}")
    return FAMILIES[str(kind)]


ORIGINALS = ("LLaVA and Yi-VL with mm_vision_tower", "Qwen-VL", "CogVLM")


def _original(config: Config) -> Family | None:
    """Those that transformers has no class for: a model_type of theirs says nothing, or something else, or is not there."""
    if "mm_vision_tower" in config:  # with the same model_type as transformers' LLaVA
        return original_llava.family_of(config)
    if config.get("model_type") == "qwen" and "visual" in config:  # without: Qwen, a language model
        return qwen_vl.FAMILY
    classes = [*(config.get("architectures") or []), *(config.get("auto_map") or {}).values()]
    return cogvlm.FAMILY if any("CogVLMForCausalLM" in str(name) for name in classes) else None


@dataclass(frozen=True)
class Matched:
    """Each rule with the published name it takes its tensor from, and names that belong to no part that is run.

    `template`: the preset of the text template that the family's conversations have.
    """

    model: ModelConfig
    pairs: list[tuple[Rule, str]]
    aside: list[str]
    template: str | None = None


def match(published: Published) -> Matched:
    """Hold a folder against its family's table.

    Raises:
        UserError: a tensor is missing, one is left over, or one has another shape.
    """
    family = family_of(published.config, str(published.folder / "config.json"))
    model = fitted(family.model_of(published.config), processor_of(published.folder))
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
    return Matched(model, pairs, list(aside.values()), family.preset(chat_template_of(published.folder)))
