"""YAML -> recipe and back: `extends`, `--set`, every error at once with the nearest valid name.

A recipe is named (packaged: configs/recipes/NAME.yaml) or a path. `extends: NAME` (or a path relative to the file) is
merged below it: dictionaries merge, lists and values replace. The resolved form loads again.
"""

import copy
from collections.abc import Hashable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from configs.complaints import validate
from configs.errors import UserError
from configs.listing import ENDINGS, find_recipes, nearest

MAX_EXTENDS = 10

Layer = tuple[str, dict[str, Any]]
"""What one file (or `--set`) says, and its name for messages."""


def recipe_path(name: str, beside: Path | None = None) -> Path:
    """The file of a recipe's name or path. `beside`: the folder that a relative path starts from.

    Raises:
        UserError: there is none; says the nearest name.
    """
    path = Path(name)
    if path.suffix in ENDINGS:
        found = beside / path if beside is not None and not path.is_absolute() else path
        if found.is_file():
            return found
        raise UserError(f"recipe file {found} does not exist: check the path, or run `looksay recipes`")
    known = find_recipes()
    if name in known:
        return known[name]
    for guess in (path / "config.yaml", Path(f"{name}.yaml")):
        if guess.is_file():
            raise UserError(f"no recipe is called {name!r}: for the file give its path, {guess}")
    raise UserError(
        f"no recipe is called {name!r}: {nearest(name, known)} (`looksay recipes` lists them; a file ends in .yaml)"
    )


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that refuses a key written twice, of which one would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is written twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise UserError(f"recipe {path} is not YAML: {where}; correct that line") from None
    if not isinstance(tree, dict):
        raise UserError(
            f"recipe {path} holds {type(tree).__name__}, not keys and values: start from `looksay recipes --copy`"
        )
    return tree


def read_layers(name: str, beside: Path | None = None, depth: int = 0) -> list[Layer]:
    """What a recipe's file says, after everything that it extends: lowest layer first."""
    if depth > MAX_EXTENDS:
        raise UserError(f"recipe {name!r} extends itself, or more than {MAX_EXTENDS} others: break the chain")
    path = recipe_path(name, beside)
    tree = _read_file(path)
    base = tree.pop("extends", None)
    below = [] if base is None else read_layers(str(base), path.parent, depth + 1)
    return [*below, (str(path), tree)]


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` over `below`. A dictionary whose `type` changes replaces the one below: its keys are another model's. So does
    one with a `preset`, which stands for all of its keys.
    """
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        if not isinstance(value, dict) or not isinstance(old, dict) or "preset" in value:
            out[key] = value
        else:
            out[key] = merge(old, value) if value.get("type", old.get("type")) == old.get("type") else value
    return out


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Put one `a.b.0.c=value` (value in YAML) into the tree, in place.

    Raises:
        UserError: no `=`, or a path through something that has no keys.
    """
    path, equals, text = override.partition("=")
    *parents, last = path.strip().split(".")
    if not equals or not last or not all(parents):
        raise UserError(f"--set {override!r} has no KEY=VALUE: write for example --set optim.clip=0.5")
    place: Any = tree
    for number, key in enumerate(parents):
        place = _step_into(place, key, ".".join(parents[: number + 1]), path)
    if isinstance(place, list):
        place[_list_index(place, last, path)] = _value_of(text)
    else:
        if last == "preset":
            place.clear()  # it stands for all keys beside it; those that differ come after it
        place[last] = _value_of(text)


def _value_of(text: str) -> Any:
    """A value as YAML reads it; what is not YAML (such as `@x`) is text."""
    try:
        return yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        return text


def _step_into(place: Any, key: str, so_far: str, path: str) -> Any:
    if isinstance(place, list):
        place = place[_list_index(place, key, path)]
    else:
        if place.get(key) is None:
            place[key] = {}
        place = place[key]
    if not isinstance(place, dict | list):
        raise UserError(f"--set {path}: {so_far} is the value {place!r} and has no keys below it; set {so_far} itself")
    return place


def _list_index(place: list[Any], key: str, path: str) -> int:
    if not key.isdigit() or int(key) >= len(place):
        raise UserError(f"--set {path}: {key!r} is not a place in a list of {len(place)}: use 0 to {len(place) - 1}")
    return int(key)


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Any:
    """The recipe (BuildRecipe or TrainRecipe) of a name or path, with `--set` values applied.

    Raises:
        UserError: all that is wrong with it, one line each.
    """
    return resolve(name, read_layers(str(name)), overrides)


def resolve(name: str, layers: Sequence[Layer], overrides: Sequence[str] = ()) -> Any:
    """Layers and overrides as one recipe. `name` opens the messages."""
    nothing: dict[str, Any] = {}
    tree = reduce(merge, (copy.deepcopy(said) for _, said in layers), nothing)
    for override in overrides:
        apply_override(tree, override)
    if overrides:
        said: dict[str, Any] = {}
        for override in overrides:
            path, _, text = override.partition("=")
            _mark(said, path.strip().split("."), _value_of(text))
        layers = [*layers, ("--set", said)]
    return validate(tree, name, layers)


def _mark(said: dict[str, Any], path: list[str], value: Any) -> None:
    """Note what `--set` said at this path, so that a message can name it as the place of an error."""
    for key in path[:-1]:
        inner = said.get(key)
        said[key] = inner if isinstance(inner, dict) else {}
        said = said[key]
    said[path[-1]] = value


def dump_recipe(recipe: BaseModel) -> str:
    """The resolved recipe as YAML that loads again."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=110, allow_unicode=True)


def difference(old: BaseModel, new: BaseModel) -> list[str]:
    """`key: old -> new` for every value that differs."""
    return tree_difference(old.model_dump(mode="json"), new.model_dump(mode="json"))


def tree_difference(old: Any, new: Any, prefix: str = "") -> list[str]:
    """The same for resolved trees, one of which an older version may have written."""
    if isinstance(old, dict) and isinstance(new, dict):
        out = []
        for key in [*old, *(k for k in new if k not in old)]:
            out += tree_difference(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        return out
    return [] if old == new else [f"{prefix}: {old!r} -> {new!r}"]


def json_schema() -> dict[str, Any]:
    """JSON Schema of recipes, for editors. `extends` is a key of files, resolved before the models see it."""
    from configs.schema import RECIPE

    schema = RECIPE.json_schema()
    for definition in ("BuildRecipe", "TrainRecipe"):
        extends = {"type": "string", "description": "recipe (name, or path beside this file) merged below this one"}
        schema["$defs"][definition]["properties"]["extends"] = extends
    return schema
