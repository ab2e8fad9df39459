"""The contact sheet: rows prompts, columns checkpoint x steps, one seed, labelled."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from nbench.runs.files import write_atomic
from nbench.runs.images import ImageStore
from nbench.runs.tables import RunTables

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

_TILE = 112  # shown side of a picture, in pixels
_GAP = 4
_LABEL = 190
_HEAD = 44
_FONT = 13
_PAPER, _INK, _MUTED, _MISSING = (255, 255, 255), (25, 25, 25), (110, 110, 110), (232, 226, 226)


def write_sheet(run: RunTables, images: ImageStore, path: Path, *, rows: int = 12, seed: int = 0) -> Path:
    """Draw the pictures of one seed and write them as PNG; the first `rows` prompts, unselected.

