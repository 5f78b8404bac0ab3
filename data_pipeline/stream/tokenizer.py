"""A small byte-level BPE tokenizer trained on the texts of datasets, or a published one with a picture's mark added."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from configs.data import TemplateConfig
from configs.errors import UserError
from data_pipeline.manifest import NAME
from data_pipeline.sample import IMAGE_MARK
from data_pipeline.storage import put
from data_pipeline.stream.read.dataset import Dataset


def texts_of(dataset: Dataset) -> Iterator[str]:
    """Pieces of text exactly as the template cuts them: between marks, each on its own."""
    for index in range(len(dataset)):
        talk = dataset.conversation(index)
        contents = [talk.text or ""] if talk.messages is None else [m.content for m in talk.messages]
        for content in contents:
            yield from (part for part in content.split(IMAGE_MARK) if part)


def train_tokenizer(
    folders: Sequence[str],
    out: str,
    vocab_size: int = 2048,
    template: TemplateConfig | None = None,
    more: Sequence[str] = (),
) -> int:
    """Write OUT/tokenizer.json (and the config that makes it a Hugging Face folder). Returns the vocabulary's size.

    Args:
        more: texts that are one token each beside the template's marks.
    Raises:
        UserError: `out` holds something else, or vocab_size cannot hold the 256 bytes and the marks.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    template = template or TemplateConfig()
    marks = list(dict.fromkeys((*template.marks, *more)))
    least = 256 + len(marks)
    if vocab_size < least:
        raise UserError(f"vocabulary {vocab_size} is too small: 256 bytes and {len(marks)} marks need {least}")
    if (Path(out) / NAME).exists():
        raise UserError(f"{out} holds a dataset: give the tokenizer a folder of its own")
    datasets = [Dataset(folder) for folder in folders]
    tokenizer = Tokenizer(models.BPE())
    # A word is one token wherever it stands: the answer `red` and the ` red` of a question share an embedding, so that
    # naming a colour and comparing with it are one thing to learn. The space that this adds is stripped in decoding.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=marks,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for dataset in datasets for text in texts_of(dataset)), trainer)
    put(str(Path(out) / "tokenizer.json"), tokenizer.to_str(pretty=True).encode())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": template.bos,
        "eos_token": template.end,
        "pad_token": template.pad,
        "additional_special_tokens": [text for text in (template.user, template.assistant, template.image) if text],
    }
    put(str(Path(out) / "tokenizer_config.json"), json.dumps(config, indent=1).encode())
    return tokenizer.get_vocab_size()


KEPT = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
)


def take_tokenizer(folder: Path, out: Path, marks: Sequence[str]) -> int:
    """Write OUT/tokenizer.json: a published one, and special tokens `marks` behind its own where it lacks them.

    Returns the vocabulary's size.

    Raises:
        UserError: the folder has no tokenizer.json that can be read, or OUT is the folder itself.
    """
    from tokenizers import AddedToken, Tokenizer

    if out.exists() and out.samefile(folder):
        raise UserError(f"--out {out} is the published folder itself: give another")
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            f"{folder} has no tokenizer.json: save it once in that form, with "
            "`transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)`"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception on a bad file
        raise UserError(f"{path} cannot be read as a tokenizer ({error}): fetch it again") from None
    lacking = [mark for mark in marks if tokenizer.token_to_id(mark) is None]
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in lacking])
    for name in KEPT:
        if (folder / name).is_file():
            put(str(out / name), (folder / name).read_bytes())
    put(str(out / "tokenizer.json"), tokenizer.to_str(pretty=True).encode())
    return int(tokenizer.get_vocab_size())
