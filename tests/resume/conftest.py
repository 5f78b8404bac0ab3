"""The world of squares, made once."""

from tests.pretrain.conftest import squares  # noqa: F401
