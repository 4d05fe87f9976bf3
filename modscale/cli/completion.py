"""What the shell offers after Tab: published names, and the bands of a run. It must be quick, and never complains."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from modscale.errors import ModscaleError


def complete_model(incomplete: str) -> list[str]:
    """Published names that go on from `incomplete`; where there is none, the shell offers files."""
    from modscale.specs.published import list_models

    with suppress(ModscaleError):
        return _going_on(incomplete, (row.name for row in list_models()))
    return []


def complete_proxy(incomplete: str) -> list[str]:
    """Names of proxies; where there is none, the shell offers files."""
    from modscale.settings import PROXIES

    return _going_on(incomplete, PROXIES)


def complete_schema(incomplete: str) -> list[str]:
    """Kinds of files that have a schema."""
    return _going_on(incomplete, ("space", "spec"))


def complete_band(run: str, incomplete: str) -> list[str]:
    """The bands of the run in this folder for which its last report has a pick."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, RuntimeError):
        bands = json.loads((Path(run).expanduser() / "front.json").read_text(encoding="utf-8"))["bands"]
        return _going_on(incomplete, (band for band, number in bands.items() if number is not None))
    return []


def complete_pick(ctx: Any, incomplete: str) -> list[str]:
    """The bands of the run that stands before --pick, by typer's context of the command so far."""
    # Before its value is there, --pick cannot be parsed, and what was typed before it is left in the arguments.
    return complete_band(ctx.params.get("model") or "".join(ctx.args[:1]), incomplete)


def _going_on(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete) and word.isprintable()]
