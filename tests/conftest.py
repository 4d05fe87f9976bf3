"""What all tests share: where the golden files lie, and property tests that try the same examples every time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from modscale.document import read_yaml

for name in ("COLUMNS", "LINES"):  # pytest-xdist's workers are told of a terminal that they do not have
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.pop(name, None)

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"

SLOW = {
    "test_session",
    "test_measures",
    "test_device",
    "test_protocol",
    "test_timing_worker",
    "test_proxy",
    "test_export",
    "test_scale",
    "test_front_door",
    "test_full",
    "test_teacher",
    "test_train",
}
"""Files whose tests train, export or time whole networks."""

settings.register_profile("modscale", derandomize=True, deadline=None, database=None)
settings.load_profile("modscale")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is cached during the tests is cached apart from what the user has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODSCALE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytest -m 'not slow'` leaves the files of `SLOW` out."""
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def golden_counts() -> list[dict[str, Any]]:
    """60 specs with the params and FLOPs of the authors' own code."""
    return json.loads((GOLDEN / "counts.json").read_text())


@pytest.fixture(scope="session")
def published_figures() -> dict[str, Any]:
    """The figures printed in the paper, with the exact counts of the authors' code."""
    document = read_yaml(GOLDEN / "published.yaml")
    assert isinstance(document, dict)
    return document
