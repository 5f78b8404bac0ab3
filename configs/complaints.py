"""A raw tree as a recipe; what is wrong with it as sentences: key, value, file, remedy."""

from collections.abc import Sequence
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from configs.errors import UserError
from configs.listing import nearest

MAX_SHOWN = 80
"""Characters of a value in a message."""


def validate(tree: dict[str, Any], name: str, layers: Sequence[tuple[str, dict[str, Any]]] = ()) -> Any:
    """A raw tree as BuildRecipe or TrainRecipe.

    Args:
        layers: (file, what it says), lowest first: messages name the file that said the wrong thing.
    Raises:
        UserError: every error, each with its remedy.
    """
    from configs.schema import BuildRecipe, TrainRecipe

    kinds: dict[Any, type[BaseModel]] = {"build": BuildRecipe, "train": TrainRecipe}
    kind = tree.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise UserError(f"recipe {name}: kind is {kind!r}: set it to build or train")
    model = kinds[kind]
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = [_sentence(model, problem, name, layers) for problem in _causes(error.errors())]
    if len(problems) == 1:
        raise UserError(f"recipe {name}: {problems[0]}")
    listed = "".join(f"\n  - {problem}" for problem in problems)
    raise UserError(f"recipe {name} has {len(problems)} errors:{listed}")


def _causes(problems: Sequence[Any]) -> list[Any]:
    """Errors without their echo: a list is "too short" only because its items were wrong."""
    places = [tuple(problem["loc"]) for problem in problems]
    return [
        problem
        for problem in problems
        if problem["type"] != "too_short"
        or not any(len(p) > len(problem["loc"]) and p[: len(problem["loc"])] == tuple(problem["loc"]) for p in places)
    ]


def _sentence(model: type[BaseModel], problem: Any, name: str, layers: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """One validation error as: key, value, where it stands, remedy."""
    place = [part for number, part in enumerate(problem["loc"]) if not _is_tag(model, problem["loc"], number)]
    path = ".".join(str(part) for part in place)
    file = _said_by(place, layers)
    where = f" (in {file})" if file and file != name else ""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key {path}{where}: {nearest(str(problem['loc'][-1]), _fields_at(model, problem['loc'][:-1]))}"
    if kind == "missing":
        return f"key {path} is missing: set it"
    if kind == "value_error":
        message = problem["msg"].removeprefix("Value error, ")
        return f"{path + where + ': ' if path else ''}{message}"
    if kind == "union_tag_not_found":
        return f"{path}.type is missing{where}: set it to one of {', '.join(_tags_of(_annotation_at(model, place)))}"
    if kind == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"{path}.type is {context['tag']!r}{where}: {nearest(str(context['tag']), tags)}"
    shown = repr(problem["input"])
    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
    if kind == "literal_error":
        return f"{path} is {shown}{where}: use {context['expected']}"
    if kind in ("model_type", "model_attributes_type"):
        return f"{path} is {shown}{where}: it holds keys, one or more of {', '.join(sorted(_fields_at(model, problem['loc'])))}"
    message = problem["msg"]
    return f"{path} is {shown}{where}: {message[0].lower() + message[1:]}"


def _said_by(place: Sequence[Any], layers: Sequence[tuple[str, dict[str, Any]]]) -> str | None:
    """The highest layer that speaks of a path: its file (or `--set`)."""
    for file, tree in reversed(layers):
        here: Any = tree
        for part in place:
            if isinstance(here, list) and isinstance(part, int) and part < len(here):
                here = here[part]
            elif isinstance(here, dict) and (part in here or str(part) in here):
                here = here[part] if part in here else here[str(part)]
            else:
                break
        else:
            return file
    return None


def _is_tag(model: type[BaseModel], loc: Sequence[Any], number: int) -> bool:
    """pydantic puts the chosen member of a union (its `type`) into the path; users do not write it."""
    before = _annotation_at(model, loc[:number])
    return number > 0 and isinstance(loc[number], str) and loc[number] in _tags_of(before) and not _is_single(before)


def _is_single(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _annotation_at(model: type[BaseModel], loc: Sequence[Any]) -> Any:
    """The type that stands at a path; a union's tag in the path chooses its member."""
    current: Any = model
    for part in loc:
        members = _models_in(current)
        chosen = [m for m in members if not _is_single(current) and part in _tags_of(m)]
        if chosen:
            current = chosen[0]
        elif not isinstance(part, int):
            current = next((m.model_fields[part].annotation for m in members if part in m.model_fields), None)
    return current


@cache
def _tags_of(annotation: Any) -> tuple[str, ...]:
    """Values of `type` that the models in an annotation have."""
    tags: list[str] = []
    for model in _models_in(annotation):
        if "type" in model.model_fields:
            tags += get_args(model.model_fields["type"].annotation)
    return tuple(tags)


def _fields_at(model: type[BaseModel], loc: Sequence[Any]) -> set[str]:
    """Valid keys of the model that a path leads to."""
    return {field for candidate in _models_in(_annotation_at(model, loc)) for field in candidate.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
