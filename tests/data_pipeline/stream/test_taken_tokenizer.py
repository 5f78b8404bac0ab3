"""A published tokenizer with a picture's mark: its own ids stay, the marks come behind them."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from configs.data import TemplateConfig
from configs.errors import DONE, USAGE, UserError
from data_pipeline.sample import Conversation, Message
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.tokenizer import take_tokenizer
from pretrain.cli.main import main


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Llama's marks and a few words, without a picture's mark."""
    words = ["<unk>", "<s>", "</s>", "USER", "ASSISTANT", ":", "what", "is", "this", "a", "cat"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    folder = tmp_path / "hf"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    return folder


def test_marks_come_behind_and_a_template_finds_them(published: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no token <image>, <pad>: .*`looksay data tokenizer"):
        Chat(str(published), TemplateConfig(preset="vicuna"))
    size = take_tokenizer(published, tmp_path / "out", ["<image>", "<pad>", "</s>"])
    assert size == 13 and (tmp_path / "out" / "tokenizer_config.json").read_text() == '{"bos_token": "<s>"}'
    chat = Chat(str(tmp_path / "out"), TemplateConfig(preset="vicuna"))
    assert (chat.image_id, chat.pad_id) == (11, 12)
    talk = Conversation(None, (Message("user", "<image>what is this"), Message("assistant", "a cat")), {})
    encoded = chat.encode(talk, 1)
    before = Tokenizer.from_file(str(published / "tokenizer.json"))
    words = [number for number in encoded.ids.tolist() if number < 11]
    assert {before.id_to_token(number) for number in words} >= {"what", "cat", "USER", "</s>"} and len(
        encoded.slots
    ) == 1


def test_the_command(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["data", "tokenizer", str(published), "--out", str(out), "--dry-run"]) == DONE and not out.exists()
    assert main(["data", "tokenizer", str(published), "--out", str(out)]) == DONE
    assert "12 tokens" in capsys.readouterr().out
    assert main(["data", "tokenizer", str(published), "--out", str(published)]) == USAGE
    assert "is the published folder itself" in capsys.readouterr().err
    assert main(["data", "tokenizer", "maker/none", "--out", str(out)]) == USAGE
    assert "looksay fetch maker/none --tokenizer" in capsys.readouterr().err
    (published / "tokenizer.json").rename(published / "tokenizer.model")
    assert main(["data", "tokenizer", str(published), "--out", str(out)]) == USAGE
    assert "save it once in that form" in capsys.readouterr().err
