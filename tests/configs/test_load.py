"""Recipes: what they inherit, what `--set` changes, and how every error is told."""

from pathlib import Path

import pytest
import yaml

from configs.errors import UserError
from configs.listing import header_of
from configs.load import difference, dump_recipe, find_recipes, json_schema, load_recipe, read_layers, resolve
from configs.schema import BuildRecipe, TrainRecipe


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def complaint(*args: object) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(*args)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(find_recipes()))
def test_every_packaged_recipe_loads_and_says_how_to_run_it(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name or name == "tiny_build"
    verb = "train" if isinstance(recipe, TrainRecipe) else "data build"
    header = header_of(find_recipes()[name])
    command, *facts = header.splitlines()
    assert name in header
    assert f"looksay {verb} {name}" in header
    for fact in ("hardware:", "time:", "result:"):
        assert fact in " ".join(facts), f"the header of {name} does not say its {fact}"
    assert command.startswith("looksay ")


@pytest.mark.parametrize("name", sorted(find_recipes()))
def test_the_resolved_form_loads_again_as_the_same_recipe(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    again = load_recipe(write(tmp_path, "resolved.yaml", dump_recipe(recipe)))
    assert again == recipe
    assert difference(recipe, again) == []


def test_extends_merges_dictionaries_and_replaces_lists(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "extends: tiny_train\nstage: {steps: 50, train: {projector: 0.5}}\n")
    recipe = load_recipe(
        write(tmp_path, "mine.yaml", "extends: base.yaml\nstage: {steps: 60}\ndata: {sources: [{path: x}]}\n")
    )
    packaged = load_recipe("tiny_train")
    assert recipe.stage.steps == 60
    assert recipe.stage.train == {**packaged.stage.train, "projector": 0.5}
    assert [source.path for source in recipe.data.sources] == ["x"]
    assert recipe.data.packing == packaged.data.packing


def test_another_type_replaces_the_keys_of_the_one_below(tmp_path: Path) -> None:
    text = "extends: demo_caption\nmodel: {encoder: {type: native_vit, width: 64, depth: 1, heads: 2, mlp_width: 64}}\ndata: {cache_features: false}\n"
    recipe = load_recipe(write(tmp_path, "vit.yaml", text))
    assert recipe.model.encoder.type == "native_vit"
    assert recipe.model.projector == load_recipe("demo_caption").model.projector


def test_a_preset_stands_for_all_keys_of_the_template_below(tmp_path: Path) -> None:
    """A run's config.yaml has every mark: a preset above it that kept them would be none."""
    base = tmp_path / "config.yaml"
    base.write_text(dump_recipe(load_recipe("tiny_train", ["data.template.user=Q"])))
    above = tmp_path / "mine.yaml"
    above.write_text(f"extends: {base}\ndata: {{template: {{preset: vicuna, system: 'A chat. '}}}}")
    expected = load_recipe("tiny_train", ["data.template={preset: vicuna, system: 'A chat. '}"])
    assert load_recipe(str(above)) == expected and expected.data.template.user == "USER: "
    set_one = ["data.template.preset=vicuna", "data.template.system='A chat. '"]
    assert load_recipe(str(base), set_one) == expected


def test_a_circle_of_extends_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: b.yaml\n")
    assert "extends itself" in complaint(write(tmp_path, "b.yaml", "extends: a.yaml\n"))


def test_set_reads_values_as_yaml() -> None:
    sets = [
        "stage.steps=7",
        "log.to=[]",
        "data.sources.0.weight=2.5",
        "evaluate.source=null",
        "optim.eps=1e-6",
        "name=x=y",
    ]
    recipe = load_recipe("tiny_train", [*sets, "optim.warmup_steps=2"])
    assert (recipe.stage.steps, recipe.log.to, recipe.data.sources[0].weight) == (7, (), 2.5)
    assert (recipe.evaluate.source, recipe.optim.eps, recipe.name) == (None, 1e-6, "x=y")


def test_set_leaves_the_files_words_alone() -> None:
    layers = read_layers("tiny_train")
    before = resolve("tiny_train", layers)
    assert resolve("tiny_train", layers, ["stage.steps=21", "data.sources.0.path=elsewhere"]) != before
    assert resolve("tiny_train", layers) == before


def test_all_errors_come_at_once_each_with_its_place(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", "extends: tiny_train\noptim: {betaz: [1, 2]}\n")
    text = (
        "extends: base.yaml\nsed: 1\nstage: {steps: many}\nmodel: {decoder: {wdth: 8}}\ndata: {packing: {length: 2}}\n"
    )
    message = complaint(write(tmp_path, "mine.yaml", text), ["parallel.zero=4"])
    lines = message.splitlines()
    assert "has 6 errors" in lines[0] and len(lines) == 7
    expected = [
        "unknown key sed: did you mean 'seed'?",
        "stage.steps is 'many': input should be a valid integer",
        "unknown key model.decoder.wdth: did you mean 'width'?",
        "data.packing.length is 2: input should be greater than or equal to 8",
        f"unknown key optim.betaz (in {base}): did you mean 'betas'?",
        "parallel.zero is 4 (in --set): use 0, 1, 2 or 3",
    ]
    for sentence in expected:
        assert any(sentence in line for line in lines), sentence


def test_a_wrong_type_of_a_union_names_the_nearest() -> None:
    message = complaint("tiny_train", ["model.encoder.type=natve_vit"])
    assert "model.encoder.type is 'natve_vit' (in --set): did you mean 'native_vit'?" in message


def test_a_key_of_another_model_of_the_union_is_unknown() -> None:
    message = complaint("tiny_train", ["model.projector.activaton=silu"])
    assert "unknown key model.projector.activaton (in --set): did you mean 'activation'?" in message


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("stage", "has no KEY=VALUE"),
        ("=5", "has no KEY=VALUE"),
        ("stage..steps=5", "has no KEY=VALUE"),
        ("stage.steps.more=1", "stage.steps is the value 200 and has no keys below it"),
        ("data.sources.3.path=x", "'3' is not a place in a list of 1"),
        ("data.sources.path=x", "'path' is not a place in a list of 1"),
    ],
)
def test_a_set_that_cannot_be_placed(override: str, sentence: str) -> None:
    assert sentence in complaint("tiny_train", [override])


def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    message = complaint(write(tmp_path, "twice.yaml", "extends: tiny_train\nseed: 1\nseed: 2\n"))
    assert "'seed' is written twice" in message and "line 3" in message


def test_infinite_and_undefined_numbers_are_refused() -> None:
    for value in (".inf", ".nan"):
        assert "stage.train.decoder is" in complaint("tiny_train", [f"stage.train.decoder={value}"])


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    message = complaint(write(tmp_path, "evil.yaml", "kind: !!python/object/apply:os.getcwd []\n"))
    assert "is not YAML" in message


def test_recipes_are_frozen_and_closed() -> None:
    recipe = load_recipe("tiny_train")
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3


def test_difference_names_the_path() -> None:
    old, new = load_recipe("tiny_train"), load_recipe("tiny_train", ["optim.clip=0.5"])
    assert difference(old, new) == ["optim.clip: 1.0 -> 0.5"]


def test_the_schema_describes_both_kinds_and_extends() -> None:
    definitions = json_schema()["$defs"]
    for model, kind in ((BuildRecipe, "BuildRecipe"), (TrainRecipe, "TrainRecipe")):
        assert set(model.model_fields) | {"extends"} == set(definitions[kind]["properties"])
        assert definitions[kind]["additionalProperties"] is False


def test_every_file_of_a_recipe_is_plain_yaml() -> None:
    for path in find_recipes().values():
        assert isinstance(yaml.safe_load(path.read_text()), dict)
