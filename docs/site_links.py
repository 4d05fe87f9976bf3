"""A hook of mkdocs: a link that leaves `docs/` for the rest of the repository becomes the name of the file there."""

from __future__ import annotations

import re
from typing import Any

LEAVES = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page's text with such links replaced."""
    return LEAVES.sub(r"\1 (`\2`)", markdown)
