"""Pages and documents of a report: templates filled in with somebody's text, which stays text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from modscale.errors import one_line, printable

SCRIPT = Path(__file__).with_name("page.js")
"""What a page runs; nothing else in it may run."""


def base64_text(text: str) -> str:
    """As a data address has it."""
    return base64.b64encode(text.encode()).decode()


def to_json(document: object) -> bytes:
    """A document's text, a final line break included."""
    return json.dumps(document, indent=2, allow_nan=False).encode() + b"\n"


def render_page(template: str, context: Mapping[str, Any], most: int) -> bytes:
    """Every expression of a template is somebody's text, and escaped for its kind of page; `verbatim` is for code."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(("html.j2",)),
        finalize=_visible if template.endswith("html.j2") else _markdown_text,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    script = SCRIPT.read_text()
    digest = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    environment.globals |= {"script": Markup(script), "script_digest": digest}  # noqa: S704  # our own
    environment.filters["verbatim"] = lambda text: Markup(printable(text))  # noqa: S704  # for Markdown alone
    return environment.get_template(template).render(**context, most=most).encode()


def _visible(value: object) -> object:
    """Text without signs that hide or steer; what a macro has made of such text is left as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _markdown_text(value: object) -> object:
    """Text that is only text in Markdown: no pipe, no line break, no markup, formula or address, and no HTML."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    text = re.sub(r"[\\|`*_\[\]~$#]|:(?=//)|(?i:(?<=www))\.", r"\\\g<0>", one_line(value))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
