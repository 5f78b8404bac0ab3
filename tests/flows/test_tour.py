"""docs/tour.md, its Russian twin and docs/my-photos.md stay true: links, commands, excerpts, and the same in both languages."""

import json
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from data_pipeline.stream.tokenizer import train_tokenizer
from pretrain.cli.main import main, make_parser
from tests.data_pipeline.conftest import encoded, noise
from tests.families.published import save_llava
from tests.flows.conftest import no_ray
from tests.flows.test_first_day import SPECIALS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [DOCS / name for name in ("tour.md", "tour.ru.md", "my-photos.md", "README.md")]
SHELL = {"make", "mkdir", "cp", "mv", "tar", "echo", "python", "ffmpeg", "ls"}
"""What else stands in blocks of commands."""


class Block(NamedTuple):
    language: str
    lines: list[str]


def blocks(page: Path) -> list[Block]:
    """Fenced blocks in order: commands have no language, what they print is `text`."""
    found = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"))
    return [Block(language, [line for line in body.splitlines() if line.strip()]) for language, body in found]


def commands(page: Path) -> list[str]:
    return [line for block in blocks(page) if not block.language for line in block.lines]


def prose(page: Path) -> str:
    return re.sub(r"(?ms)^```\w*\n.*?^```$", "", page.read_text(encoding="utf-8"))


def headings(page: Path) -> list[tuple[int, str]]:
    return [(len(marks), text) for marks, text in re.findall(r"(?m)^(#+) (.+)$", prose(page))]


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in link]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_resolves(page: Path) -> None:
    assert links(page)
    for link in links(page):
        path, _, place = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        if place:
            assert place in {anchor(text) for _, text in headings(target)}, f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_parses(page: Path) -> None:
    for line in commands(page):
        words = shlex.split(line, comments=True)
        if words[0] != "looksay":
            assert words[0] in SHELL, line
            continue
        assert callable(make_parser().parse_args(words[1:]).handler), line


def test_both_languages_say_the_same() -> None:
    english, russian = DOCS / "tour.md", DOCS / "tour.ru.md"
    assert [level for level, _ in headings(english)] == [level for level, _ in headings(russian)]
    assert blocks(english) == blocks(russian)

    def sections(page: Path) -> list[Counter[str]]:
        """Files that each section leads to, and the numbers of its headings and code words."""
        parts = re.split(r"(?m)^#+ .+$", prose(page))[1:]
        wanted = r"\]\((\.\./[^)#]+|[\w/.-]+\.(?:md|json))[^)]*\)"
        return [Counter(found for found in re.findall(wanted, part) if not found.startswith("tour")) for part in parts]

    for (_, heading), one, other in zip(headings(english), sections(english), sections(russian), strict=True):
        assert one == other, heading
    assert re.search("[\u0430-\u044f]", prose(russian)) and len(prose(russian)) > 0.7 * len(prose(english))


def test_the_course_is_covered() -> None:
    """What the course has a section or a term for."""
    text = (DOCS / "tour.md").read_text(encoding="utf-8").lower()
    course = (
        "vlm|vision encoder|vector|patch|image token|projection|caption|loss|freeze|multimodal|q-former|interleaved"
    )
    course += (
        "|alignment|lora|why not feed pixels|vit|[cls]|cnn|clip|siglip|mlp|resampler|special tokens|normalise|rope"
    )
    course += (
        "|200 positions|pretraining|variants a, b, c|sft|rl and preferences|kv cache|top-p|temperature|several pictures"
    )
    course += (
        "|full fine-tuning|the projection only|unfreezing|checkpointing|accumulation|validation|quantisation|memory"
    )
    course += "|llava|blip-2|qwen|yi-vl|internvl|cogvlm|paligemma|smolvlm|a check list|does it look|questions"
    assert not [word for word in course.split("|") if word not in text]


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder as a clean checkout is, for commands that write to runs/."""
    for name in ("docs", "data_pipeline"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_what_the_tour_shows_is_what_is_said(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands that need no demo are run as they stand; each excerpt's lines are among what the block before it prints."""
    said, ran, excerpts = "", 0, 0
    for block in blocks(DOCS / "tour.md"):
        if not block.language:
            capsys.readouterr()
            for line in block.lines:
                words = shlex.split(line)
                if words[0] == "looksay" and "demo" not in line and "tour" not in line and "--help" not in line:
                    with no_ray():
                        assert main(words[1:]) == 0, line
                    ran += 1
            said = squeezed(capsys.readouterr().out) if "demo" not in " ".join(block.lines) else ""
        elif said:
            lines = [squeezed(line) for line in block.lines if line.strip() != "..."]
            assert [line for line in lines if line not in said] == []
            excerpts += len(lines)
    assert ran > 20 and excerpts > 15


@pytest.mark.slow
def test_my_photos_from_the_folder_to_the_start_of_training(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stand-in and all data commands as they stand; training is only prepared here (the page's figures are measured)."""
    page = DOCS / "my-photos.md"
    script = next(block for block in blocks(page) if block.language == "python")
    exec("\n".join(script.lines), {})
    assert len(list(Path("photos").glob("*.jpg"))) == 270 and len(list(Path("photos_test").glob("*.txt"))) == 30
    lines = [shlex.split(line, comments=True) for line in commands(page) if line.startswith("looksay data ")]
    built = 0
    for words in lines:
        if any(word in ("clips", "runs/clips") for word in words):
            continue
        with no_ray():
            assert main(words[1:]) == 0, words
        built += words[2] == "build"
    assert built == 4
    for recipe in ("photos_caption", "photos_questions"):
        start = ["--set", "stage.start_from=null"]
        assert main(["train", recipe, "--dry-run", *start]) == 0
        capsys.readouterr()
        assert main(["inspect", recipe, "--sample", "3", "--no-colour"]) == 0
        assert "16 visual" in capsys.readouterr().out


@pytest.mark.slow
def test_my_photos_from_published_weights(
    checkout: Path, transformers: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's own recipe and commands, on LLaVA-1.5 in small: two steps, one rank, tiny rows."""
    page = DOCS / "my-photos.md"
    [recipe] = [block for block in blocks(page) if block.language == "yaml"]
    Path("photos_llava.yaml").write_text("\n".join(recipe.lines))
    talk = [{"role": "user", "content": "<image>is it noise?"}, {"role": "assistant", "content": "yes"}]
    for name in ("ask", "ask_test", "photos_test"):
        place = Path("photos_test" if name == "photos_test" else f"sources/{name}")
        place.mkdir(parents=True)
        for number in range(4):
            (place / f"{number:03}.jpg").write_bytes(encoded(noise(number), "JPEG"))
            (place / f"{number:03}.json").write_text(json.dumps({"messages": talk}))
        with no_ray():
            assert main(["data", "build", str(place), f"runs/photos/{name}"]) == 0
    shutil.copy("photos_test/003.jpg", "photos_test/030.jpg")
    folder = save_llava(transformers, Path("llava-1.5-7b-hf"))
    train_tokenizer(["runs/photos/ask"], str(folder), 300, SPECIALS)
    small = ["data.packing={length: 128, rows_per_step: 2, window_steps: 2}", "stage.steps=2", "optim.warmup_steps=1"]
    sets = [word for value in (*small, "log.to=[]") for word in ("--set", value)]
    ran = []
    for words in (shlex.split(line, comments=True) for line in commands(page)):
        if words[0] == "looksay" and "llava" in " ".join(words):
            capsys.readouterr()
            assert main([*words[1:], *(sets if words[1] == "train" else [])]) == 0, words
            ran.append(words[1])
    assert ran == ["import", "train", "generate", "export"]
    _, told = transformers.LlavaForConditionalGeneration.from_pretrained("out/photos_llava", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
