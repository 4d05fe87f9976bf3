"""`modscale schema`."""

from __future__ import annotations

from typing import Annotated

from modscale.cli.app import answer, argument
from modscale.cli.arguments import DebugOption, JsonOption
from modscale.cli.completion import complete_schema


def schema(
    kind: Annotated[str, argument("KIND", "`space` or `spec`.", parser=str, completion=complete_schema)] = "space",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print the JSON Schema of spaces, or of specs. Editors complete and check files by it."""
    from modscale.document import check_choice
    from modscale.runs.schema import SCHEMAS

    answer(SCHEMAS[check_choice(kind, "KIND", tuple(SCHEMAS))](), True, lambda: None)  # it is JSON in any case
