"""Where nbench's own data lies: what ships with it, and what it keeps between runs."""

from __future__ import annotations

import os
from pathlib import Path


def bundled(kind: str) -> Path:
    """The folder of bundled `kind` ("prompts", "judges", "leaderboards", "leaderboards/studies").

    A wheel holds it under `nbench/_bundled/`; a source tree at its root.
    """
    package = Path(__file__).resolve().parent
    inside_wheel = package / "_bundled" / kind
    return inside_wheel if inside_wheel.is_dir() else package.parent / kind


def cache_folder(kind: str) -> Path:
    """Where fetched or derived files of `kind` are kept between runs: under NBENCH_CACHE, default ~/.cache/nbench."""
    return Path(os.environ.get("NBENCH_CACHE") or Path.home() / ".cache" / "nbench") / kind
