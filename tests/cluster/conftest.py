"""transformers, whose tiny models the cost model is measured on."""

from tests.families.conftest import transformers  # noqa: F401
