"""What all tests share: where the golden files lie, and property tests that try the same examples every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from modscale.document import read_yaml

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"

settings.register_profile("modscale", derandomize=True, deadline=None, database=None)
settings.load_profile("modscale")


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
