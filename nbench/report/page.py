"""The shell of every page: one HTML file with its style and script inside, and a policy that lets nothing else in.

A page asks no network for anything: style and script stand in it, named by hash in its Content-Security-Policy, and
pictures are in it or beside it. Every text goes through Jinja's escaping or, in the script, through `textContent`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbench.report import page_format

if TYPE_CHECKING:
    from jinja2 import Environment

_ASSETS = Path(__file__).parent / "assets"


def render(template: str, values: Mapping[str, Any], data: Mapping[str, Any], *, beside: bool) -> str:
    """A whole page.

    Args:
        template: name of a file among the assets.
        values: for the template.
        data: JSON values for the script.
        beside: whether pictures lie beside the page; without it they must be inside.
    """
    style, script = _asset("page.css"), "\n".join(map(_asset, ("page.js", "page_viewer.js")))
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src data: 'self'" if beside else "img-src data:",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    from markupsafe import Markup

    return _environment().get_template(template).render(
        {**values, "policy": policy, "style": Markup(style), "script": Markup(script), "data": Markup(_json(data))}
    )  # fmt: skip


def _json(value: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    made.filters.update(
        number=page_format.number, signed=page_format.signed, interval=page_format.interval, steps=page_format.steps,
        short=page_format.short, pretty=page_format.pretty,
    )  # fmt: skip
    return made
