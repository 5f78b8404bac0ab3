"""Which part of a stored piece is which part of a wanted one: every element once, at its place, whatever was cut how."""

import numpy as np
import pytest
import torch

from pretrain.checkpoint import files
from pretrain.checkpoint.files import Part, Reader, entries_of, write
from pretrain.checkpoint.geometry import Span, blocks

CASES = 300


def slices(shape: tuple[int, ...], axis: int | None, parts: int, flat: int, random: np.random.Generator) -> list[Span]:
    """The whole tensor as spans: cut into TP `parts` on `axis`, each into `flat` ranges of any length."""
    found = []
    for part in range(parts if axis is not None else 1):
        size = None if axis is None else shape[axis] // parts
        columns = Span(shape, axis, 0 if size is None else part * size, size, 0, 0)
        count = columns.rows * columns.columns
        cuts = np.sort(random.integers(0, count + 1, flat - 1)).tolist()
        for start, stop in zip([0, *cuts], [*cuts, count], strict=True):
            if stop > start:
                found.append(Span(shape, axis, columns.offset, size, start, stop))
    return found


def content(span: Span, whole: np.ndarray) -> np.ndarray:
    """What a span holds, by numpy's own indexing."""
    part = whole
    if span.axis is not None and span.size is not None:
        part = np.take(whole, range(span.offset, span.offset + span.size), span.axis)
    return part.reshape(-1)[span.start : span.stop]


@pytest.mark.parametrize("seed", range(CASES))
def test_any_cut_fills_any_other(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = tuple(12 * random.integers(1, 3, random.integers(1, 4)))
    axis = None if random.random() < 0.25 else int(random.integers(0, len(shape)))
    whole = np.arange(np.prod(shape)).reshape(shape)
    stored = slices(shape, axis, int(random.choice([1, 2, 3, 4])), int(random.integers(1, 5)), random)
    other = None if random.random() < 0.25 else axis
    for wanted in slices(shape, other, int(random.choice([1, 2, 3, 4])), int(random.integers(1, 5)), random):
        target, filled = np.full(wanted.count, -1), 0
        for piece in stored:
            source = content(piece, whole)
            for block in blocks(piece, wanted):
                for row in range(block.rows):
                    a, b = block.source + row * block.source_stride, block.target + row * block.target_stride
                    assert 0 <= a <= a + block.width <= len(source) and 0 <= b <= b + block.width <= len(target)
                    target[b : b + block.width] = source[a : a + block.width]
                filled += block.rows * block.width
        assert filled == wanted.count, "each element is given once"
        assert np.array_equal(target, content(wanted, whole))


@pytest.mark.parametrize("read_bytes", [4, 40, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_gives_back_what_was_written(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, read_bytes: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(files, "READ_BYTES", read_bytes)
    whole = torch.arange(8 * 6, dtype=torch.float32).view(8, 6).to(dtype)
    path = f"{tmp_path}/rank-00000.safetensors"
    span = Span((8, 6), 1, 2, 2, 3, 13)
    values = whole[:, 2:4].reshape(-1)[3:13].contiguous()
    part = Part("master", "a.weight", span, dtype, 0, values.numel() * values.element_size())
    write(path, [part], lambda _: memoryview(values.view(torch.uint8).numpy()))
    (stored,) = entries_of(path)
    assert (stored.span, stored.dtype, stored.kind, stored.name) == (span, dtype, "master", "a.weight")
    target = torch.full((48,), -1.0)
    reader = Reader()
    for block in blocks(span, Span((8, 6), None, 0, None, 0, 48)):
        reader.copy(stored, block, target)
    reader.close()
    expected = torch.full((8, 6), -1.0)
    expected[:, 2:4].view(8, 2)[:] = torch.tensor([-1.0] * 3 + values.float().tolist() + [-1.0] * 3).view(8, 2)
    assert torch.equal(target.view(8, 6), expected)
    from safetensors.torch import load_file

    assert torch.equal(load_file(path)["master/a.weight"], values), "it is a safetensors file to others too"
