"""Fixtures of all tests, and the marks."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.s3_server import s3, s3_folder  # noqa: F401  (fixtures, for every test package)

if TYPE_CHECKING:
    from tests.support.pool import Pool

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`gpu` tests are skipped, with the reason, where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a GPU; torch finds none on this machine"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """Where real schedulers were installed for the tests (.ci/run says so), a `cluster` test that is skipped fails."""
    report: Any = yield
    if report.skipped and item.get_closest_marker("cluster") and os.environ.get("LOOKSAY_CLUSTER_TESTS") == "required":
        report.outcome, report.longrepr = "failed", f"a cluster test was skipped: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def pool() -> "Iterator[Pool]":
    """Four gloo ranks, started once."""
    from tests.support.pool import Pool

    made = Pool()
    yield made
    made.close()
