"""`looksay recipes`: list, show, copy, compare, schema."""

import argparse
from pathlib import Path
from typing import Any

from configs.errors import DONE, UserError
from configs.listing import ENDINGS, find_recipes, header_of
from pretrain.cli.output import emit
from pretrain.cli.parser import add_dry_run, add_json, add_set, add_verb


def add_verbs(groups: Any) -> None:
    parser = add_verb(
        groups,
        "recipes",
        _recipes,
        "List the packaged recipes, or show one with everything that it extends.",
        [
            "looksay recipes",
            "looksay recipes demo_sft --set stage.steps=10",
            "looksay recipes tiny_train --copy mine.yaml",
            "looksay recipes demo_sft --diff runs/demo/sft/config.yaml",
            "looksay recipes --schema > recipe.schema.json",
        ],
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a recipe's name or file; none: list all")
    parser.add_argument("--copy", metavar="TO", help="write the recipe, with all that it extends, to a new file")
    parser.add_argument("--diff", metavar="OTHER", help="values that differ from another recipe or a run's config.yaml")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema, for editors")
    add_set(parser)
    add_json(parser)
    add_dry_run(parser)


def _recipes(args: argparse.Namespace) -> int:
    if args.schema:
        import json

        from configs.load import json_schema

        print(json.dumps(json_schema(), indent=1))
    elif args.name is None:
        if args.copy or args.diff or args.set:
            raise UserError(
                "--copy, --diff and --set need a recipe: give its name, for example `looksay recipes tiny_train`"
            )
        _list(args.json)
    elif args.copy:
        _copy(args.name, args.copy, args.set, args.dry_run)
    elif args.diff:
        _diff(args.name, args.diff, args.set, args.json)
    else:
        from configs.load import dump_recipe, load_recipe

        recipe = load_recipe(args.name, args.set)
        emit(recipe.model_dump(mode="json"), dump_recipe(recipe), args.json)
    return DONE


def _list(as_json: bool) -> None:
    found = [{"name": name, "path": str(path), "header": header_of(path)} for name, path in find_recipes().items()]
    lines = []
    for recipe in found:
        command, *facts = recipe["header"].splitlines() or [""]
        lines += [recipe["name"], *(f"    {line}" for line in (command, *facts) if line)]
    emit(found, "\n".join(lines), as_json)


def _copy(name: str, to: str, overrides: list[str], dry_run: bool) -> None:
    """The recipe as it resolves, under its own header: a file that stands alone."""
    from configs.load import dump_recipe, load_recipe, recipe_path

    recipe, path = load_recipe(name, overrides), recipe_path(name)
    target = Path(to) / path.name if Path(to).is_dir() else Path(to)
    if target.suffix not in ENDINGS:
        raise UserError(f"--copy {to} does not end in .yaml: give a file such as {to}.yaml")
    if target.exists():
        raise UserError(f"--copy {target} exists: choose another name, nothing was changed")
    if dry_run:
        print(f"would write {target}")
        return
    from data_pipeline.storage import put

    header = "".join(f"# {line}\n" for line in header_of(path).splitlines())
    put(str(target), (header + dump_recipe(recipe)).encode())
    print(f"wrote {target}; change it and run `looksay {'train' if recipe.kind == 'train' else 'data build'} {target}`")


def _diff(name: str, other: str, overrides: list[str], as_json: bool) -> None:
    from configs.load import difference, load_recipe

    changes = difference(load_recipe(name, overrides), load_recipe(other))
    emit(changes, "\n".join(changes) or "no difference", as_json)
