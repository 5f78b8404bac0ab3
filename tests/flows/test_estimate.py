"""The command `looksay estimate` as a user meets it."""

import json
from pathlib import Path

import pytest

from pretrain.cli.main import main
from tests.house.test_imports import HEAVY, loaded_by

ALONE = ["estimate", "tiny_train", "--site", "laptop"]


@pytest.mark.parametrize("more", [[], ["--json"], ["--search"]], ids=["text", "json", "search"])
def test_it_answers_without_anything_heavy(more: list[str]) -> None:
    assert not loaded_by([*ALONE, *more]) & {*HEAVY, "tokenizers"}


def test_json_says_what_the_table_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ALONE, "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert main(ALONE) == 0
    text = capsys.readouterr().out
    total = sum(row["whole"] for row in tree["parameters"].values())
    assert f"{total:,}" in text
    assert tree["memory"]["used"] == pytest.approx(sum(tree["memory"]["items"].values()))
    assert tree["memory"]["fits"] and "fits" in text
    assert tree["seconds"]["total"] * tree["tokens_per_s"] == pytest.approx(8 * 2 * 154)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--site", "h100"], "no site is called 'h100': did you mean 'h100-8x'?"),
        (["--site", "h100-8x", "--ranks", "3", "--set", "parallel.tp=2"], "parallel.tp 2 does not divide 3 ranks"),
        (["--site", "h100-8x", "--ranks", "100000"], "is more than site h100-8x has"),
        (["--site", "laptop", "--picture", "big"], "--picture 'big' is not WIDTHxHEIGHT"),
        (["--site", "laptop", "--simulate"], "says no mtbf_hours: give --mtbf-hours"),
        (["--site", "laptop", "--lengths", "no.npz"], "no.npz is no length set"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "tiny_train", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_a_build_recipe_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "tiny_build", "--site", "laptop"]) == 2
    assert "is a build recipe" in capsys.readouterr().err


def test_search_and_simulate_print_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "tiny_train", "--site", "h100-8x", "--search", "--top", "3"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 5 and "--set parallel." in out
    more = ["--simulate", "--ranks", "2", "--steps", "5", "--json"]
    assert main(["estimate", "tiny_train", "--site", "a100-8x", *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ranks"] == 2 and found["best"]["played"] > 0.9 and found["daly"]["steps"] > 1


def test_the_plan_is_used_where_the_dataset_is(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sets = [f"data.sources=[{{path: {world}/data}}]", f"data.tokenizer={world}/tokens"]
    command = ["estimate", "tiny_train", "--site", "laptop", *(word for s in sets for word in ("--set", s))]
    trees = []
    for _ in range(2):
        assert main([*command, "--json"]) == 0
        trees.append(json.loads(capsys.readouterr().out))
    assert trees[0] == trees[1]
    assert any("the recipe's own plan" in note for note in trees[0]["notes"])
    # The second time rows come from the cache: nothing heavy again.
    assert not loaded_by(command) & {*HEAVY, "tokenizers"}


def test_a_dataset_that_nobody_counted_is_not_counted_by_the_way(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pretrain.row_loads.COUNTED_AT_ONCE", 3)
    assert main(["estimate", "mine.yaml", "--site", "laptop"]) == 0
    out = capsys.readouterr().out
    assert "data has no token counts yet: `looksay data pack mine.yaml`" in out and "assumed: samples" in out
    assert not (world / "data" / "tokens").exists()
