"""Small models, samples and batches for numerics tests: no dataset, no tokenizer, no file."""

from collections.abc import Sequence

import numpy as np

from configs.decoder import DecoderConfig
from configs.encoders import NativeViT
from configs.model import ModelConfig
from configs.projectors import PixelShuffleMlpProjector
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.chat import Encoded
from data_pipeline.stream.collate import Ready, collate
from data_pipeline.stream.layout import Geometry, geometry_of
from data_pipeline.stream.row_column import MARKS

VOCABULARY = 100
PAD, IMAGE = 0, 1
MODEL = ModelConfig(
    encoder=NativeViT(patch=4, width=32, depth=2, heads=4, mlp_width=64),
    projector=PixelShuffleMlpProjector(factor=2, hidden=48),
    decoder=DecoderConfig(layers=2, width=32, heads=4, kv_heads=2, mlp_width=64, qk_norm=1.5),
    init_std=0.08,
)
"""Big initial weights: differences show, where a model that starts near zero would hide them."""
GEOMETRY: Geometry = geometry_of(MODEL)
LENGTH = 64


def sample(seed: int, pictures: Sequence[tuple[int, int]] = ((16, 8),), text: int = 9) -> Ready:
    """A sample of pictures (width, height) and `text` tokens, the last two thirds of which are learned."""
    random = np.random.default_rng(seed)
    ids = [2, *([IMAGE] * len(pictures)), *random.integers(3, VOCABULARY, text).tolist()]
    labels = np.zeros(len(ids), bool)
    labels[-(text * 2 // 3) :] = True
    images = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in pictures]
    slots = np.arange(1, 1 + len(pictures))
    marks = 3 + np.arange(len(MARKS)) % 40
    return Ready(Encoded(np.array(ids), labels, slots, marks), list(pictures), images=images, info={"key": str(seed)})


def rows_of(kind: str = "mixed") -> list[list[Ready]]:
    """Eight rows: `mixed` sizes and numbers of pictures, `pictures` only, `text` only, `uneven` (1 against 4)."""
    sizes = [
        ((16, 8),),
        ((8, 8), (24, 16)),
        (),
        ((8, 24),),
        ((16, 16), (8, 8), (16, 8)),
        ((24, 8),),
        (),
        ((8, 16), (8, 8)),
    ]
    if kind == "pictures":
        sizes = [((8, 8),) * (1 + n % 3) for n in range(8)]
    elif kind == "text":
        sizes = [()] * 8
    elif kind == "alternate":  # under DP 2 one rank has pictures only, the other text only
        sizes = [((16, 8), (8, 8)) if n % 2 == 0 else () for n in range(8)]
    elif kind == "uneven":
        sizes = [((16, 8),) if n % 2 == 0 else ((8, 8), (16, 16), (24, 8), (8, 16)) for n in range(8)]
    return [
        [sample(10 * n, s), sample(10 * n + 1, s[:1], 5 + n), sample(10 * n + 2, (), 4)] for n, s in enumerate(sizes)
    ]


def batch_of(
    rows: Sequence[Sequence[Ready]], denominator: float | None = None, numbers: Sequence[int] | None = None
) -> Batch:
    return collate(rows, LENGTH, GEOMETRY, PAD, cnn=False, denominator=denominator, numbers=numbers)


def micro_batches(rows: Sequence[Sequence[Ready]], dp_rank: int, dp_size: int, per_rank: int = 1) -> list[Batch]:
    """The batches that the loader gives rank `dp_rank`: dummies last, N of the whole step."""
    labels = batch_of(rows).denominator
    out = []
    for micro in range(-(-len(rows) // (dp_size * per_rank))):
        first = (micro * dp_size + dp_rank) * per_rank
        places = range(first, first + per_rank)
        mine = [rows[n] if n < len(rows) else [] for n in places]
        out.append(batch_of(mine, labels, [n if n < len(rows) else -1 for n in places]))
    return out
