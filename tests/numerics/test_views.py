"""Pictures seen in several views (tiles with a thumbnail, anyres with newlines, rows and columns with text) or through queries, and a
visual expert: packed = unpacked, ZeRO-3 x TP = alone."""

import numpy as np
import pytest

from tests.numerics.cases import VIEWS
from tests.support.pool import Pool

CASE = "tests.numerics.cases:views"


@pytest.mark.parametrize("kind", VIEWS)
def test_packing_does_not_matter(kind: str, pool: Pool) -> None:
    """fp32: measured worst 2e-7 (loss) and 2e-6 (gradient); a leak between samples moves them by 1e-3 and more."""
    packed = pool.run(CASE, 1, kind=kind)[0]
    apart = pool.run(CASE, 1, kind=kind, how="separate")[0]
    assert abs(apart["loss"] / packed["loss"] - 1) < 1e-6
    assert apart["gradients"].keys() == packed["gradients"].keys()
    assert ("projector.newline" in packed["gradients"]) == (kind == "anyres")
    for name, wanted in packed["gradients"].items():
        if name.endswith(".k.bias"):  # softmax does not see it: its gradient is rounding
            continue
        # Nobody looks at what the last layer makes of a picture's own tokens.
        assert np.abs(wanted).max() > 0 or name.startswith("decoder.layers.1.expert."), f"{name} learns nothing"
        assert np.abs(apart["gradients"][name] - wanted).max() <= 1e-5 * np.abs(wanted).max(), name


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize(
    ("ranks", "options"), [(2, {"zero": 3}), (2, {"zero": 3, "tp": 2})], ids=["zero3", "zero3-tp2"]
)
def test_ranks_agree_with_one(kind: str, ranks: int, options: dict, pool: Pool) -> None:
    """Rows without pictures among them: every rank runs encoder, projector and newline equally often."""
    alone = pool.run(CASE, 1, kind=kind, steps=3)[0]["losses"]
    found = pool.run(CASE, ranks, kind=kind, steps=3, **options)[0]["losses"]
    assert alone[2] < alone[0]
    assert np.allclose(found, alone, rtol=2e-5), (found, alone)
