"""Where the data that ships with nbench lies: in the source tree, or inside the wheel."""

from __future__ import annotations

from pathlib import Path


def bundled(kind: str) -> Path:
    """The folder of bundled `kind` ("prompts", "judges", "leaderboards").

    A wheel holds it under `nbench/_bundled/`; a source tree at its root.
    """
    package = Path(__file__).resolve().parent
    inside_wheel = package / "_bundled" / kind
    return inside_wheel if inside_wheel.is_dir() else package.parent / kind
