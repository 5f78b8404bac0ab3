"""YAML -> recipe and back: `extends`, `--set a.b=c`, every error at once with the nearest valid name.

A recipe is named (packaged: configs/recipes/NAME.yaml) or a path. `extends: NAME` (or a path relative to the file) is
merged below it: dictionaries merge, lists and values replace. The resolved form loads again.
"""

import difflib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from configs.errors import UserError

RECIPES = Path(__file__).parent / "recipes"
MAX_EXTENDS = 10


def find_recipes() -> dict[str, Path]:
    """Packaged recipes by name."""
    return {path.stem: path for path in sorted(RECIPES.rglob("*.yaml"))}


def header_of(path: Path) -> str:
    """The comment that opens a recipe file: its command, hardware, time and result."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return "\n".join(lines)


def recipe_path(name: str, beside: Path | None = None) -> Path:
    """The file of a recipe's name or path.

    Raises:
        UserError: there is none; says the nearest name.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        found = beside / path if beside is not None and not path.is_absolute() else path
        if found.is_file():
            return found
        raise UserError(f"recipe file {found} does not exist: check the path, or run `looksay recipes`")
    known = find_recipes()
    if name in known:
        return known[name]
    raise UserError(f"no recipe is called {name!r}: {_hint(name, list(known))} (`looksay recipes` lists them; a file ends in .yaml)")


def _hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(sorted(known))}"


def read_tree(name: str, beside: Path | None = None, depth: int = 0) -> dict[str, Any]:
    """The raw dictionary of a recipe, with everything that it extends merged below it."""
    if depth > MAX_EXTENDS:
        raise UserError(f"recipe {name!r} extends itself, or more than {MAX_EXTENDS} others: break the chain")
    path = recipe_path(name, beside)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise UserError(f"recipe {path} is not YAML: {where}; correct that line") from None
    if not isinstance(tree, dict):
        raise UserError(f"recipe {path} holds {type(tree).__name__}, not keys and values: start from `looksay recipes --copy`")
    base = tree.pop("extends", None)
    if base is None:
        return tree
    return merge(read_tree(str(base), path.parent, depth + 1), tree)


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` over `below`. A dictionary whose `type` changes replaces the one below: its keys are another model's."""
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and value.get("type", old.get("type")) == old.get("type"):
            out[key] = merge(old, value)
        else:
            out[key] = value
    return out


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Put one `a.b.0.c=value` (value in YAML) into the tree.

    Raises:
        UserError: no `=`, or a path through something that has no keys.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"--set {override!r} has no KEY=VALUE: write for example --set optim.clip=0.5")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        value = text
    *parents, last = path.strip().split(".")
    place: Any = tree
    for key in parents:
        if isinstance(place, list):
            place = place[_list_index(place, key, path)]
            continue
        if place.get(key) is None:
            place[key] = {}
        place = place[key]
        if not isinstance(place, dict | list):
            raise UserError(f"--set {path}: {key} is the value {place!r} and has no keys below it; set {key} itself")
    if isinstance(place, list):
        place[_list_index(place, last, path)] = value
    else:
        place[last] = value


def _list_index(place: list[Any], key: str, path: str) -> int:
    if not key.isdigit() or int(key) >= len(place):
        raise UserError(f"--set {path}: {key!r} is not a place in a list of {len(place)}: use 0 to {len(place) - 1}")
    return int(key)


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Any:
    """The recipe (BuildRecipe or TrainRecipe) of a name or path, with `--set` values applied.

    Raises:
        UserError: all that is wrong with it, one line each.
    """
    tree = read_tree(name)
    for override in overrides:
        apply_override(tree, override)
    return validate(tree, name)


def validate(tree: dict[str, Any], name: str) -> Any:
    """A raw tree as a recipe. Raises UserError with every error, each with its remedy."""
    from configs.schema import BuildRecipe, TrainRecipe

    kinds = {"build": BuildRecipe, "train": TrainRecipe}
    if tree.get("kind") not in kinds:
        raise UserError(f"recipe {name}: kind is {tree.get('kind')!r}: set it to build or train")
    model = kinds[tree["kind"]]
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = [_sentence(model, problem) for problem in error.errors()]
        if len(problems) == 1:
            raise UserError(f"recipe {name}: {problems[0]}") from None
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise UserError(f"recipe {name} has {len(problems)} errors:{listed}") from None


def _sentence(model: type[BaseModel], problem: Any) -> str:
    """One validation error as: key, value, remedy."""
    place = [part for part in problem["loc"] if not _is_tag(part, problem["loc"])]
    path = ".".join(str(part) for part in place)
    if problem["type"] == "extra_forbidden":
        known = sorted(_fields_at(model, problem["loc"][:-1]))
        return f"unknown key {path}: {_hint(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return f"key {path} is missing: set it"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{path + ': ' if path else ''}{message}"
    return f"{path} is {problem['input']!r}: {message[0].lower() + message[1:]}"


def _is_tag(part: Any, loc: Sequence[Any]) -> bool:
    """pydantic puts the chosen member of a union (its `type`) into the path; users do not write it."""
    return isinstance(part, str) and part in _tags() and part != loc[0]


@cache
def _tags() -> frozenset[str]:
    from configs import ingest, model

    found = set()
    for module in (ingest, model):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, BaseModel) and "type" in value.model_fields:
                found |= set(get_args(value.model_fields["type"].annotation))
    return frozenset(found)


def _fields_at(model: type[BaseModel], loc: Sequence[Any]) -> set[str]:
    """Valid keys of the model that a path leads to."""
    current: list[type[BaseModel]] = [model]
    for part in loc:
        if isinstance(part, int):
            continue
        tagged = [m for m in current if "type" in m.model_fields and part in get_args(m.model_fields["type"].annotation)]
        if tagged:
            current = tagged
            continue
        inner: list[type[BaseModel]] = []
        for candidate in current:
            if part in candidate.model_fields:
                inner += _models_in(candidate.model_fields[part].annotation)
        current = inner or current
    return {name for candidate in current for name in candidate.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def dump_recipe(recipe: BaseModel) -> str:
    """The resolved recipe as YAML that loads again."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=110, allow_unicode=True)


def difference(old: BaseModel, new: BaseModel) -> list[str]:
    """`key: old -> new` for every value that differs."""
    return _difference("", old.model_dump(mode="json"), new.model_dump(mode="json"))


def _difference(prefix: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        out = []
        for key in [*old, *(k for k in new if k not in old)]:
            out += _difference(f"{prefix}.{key}" if prefix else key, old.get(key), new.get(key))
        return out
    return [] if old == new else [f"{prefix}: {old!r} -> {new!r}"]


def json_schema() -> str:
    """JSON Schema of recipes, for editors."""
    from configs.schema import RECIPE

    return json.dumps(RECIPE.json_schema(), indent=1)
