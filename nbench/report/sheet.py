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

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_TILE = 112  # shown side of a picture, in pixels
_GAP = 4
_LABEL = 190
_HEAD = 44
_FONT = 13
_PAPER, _INK, _MUTED, _MISSING = (255, 255, 255), (25, 25, 25), (110, 110, 110), (232, 226, 226)


def write_sheet(run: RunTables, images: ImageStore, path: Path, *, rows: int = 12, seed: int = 0) -> Path:
    """Draw the pictures of one seed index and write them as PNG: the first `rows` prompts, unselected.

    Raises:
        StoreError: the disk refuses.
    """
    write_atomic(path, png_bytes(draw_sheet(run, images, rows=rows, seed=seed)))
    return path


def draw_sheet(run: RunTables, images: ImageStore, *, rows: int = 12, seed: int = 0) -> Image.Image:
    """The sheet as a picture. A cell without a picture is a grey tile that says so."""
    from PIL import Image, ImageDraw, ImageFont

    table = run.samples.to_pydict()
    keys: dict[tuple[str, str, int], tuple[str, bool]] = {}
    prompts: dict[str, str] = {}
    places: dict[tuple[str, int], None] = {}
    for i, prompt in enumerate(table["prompt_id"]):
        place = (table["checkpoint"][i], table["steps"][i])
        places[place] = None
        prompts[prompt] = table["prompt"][i]
        if table["seed"][i] == seed:
            keys[prompt, *place] = (table["key"][i], table["path"][i] is not None)
    shown = list(prompts)[:rows]
    lefts = _lefts(list(places))
    sheet = Image.new("RGB", (max(lefts.values()) + _TILE + _GAP, _HEAD + len(shown) * (_TILE + _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=_FONT)
    named: set[str] = set()
    for (checkpoint, steps), left in lefts.items():
        if checkpoint not in named:
            draw.text((left, 4), checkpoint, _INK, font=font)
            named.add(checkpoint)
        draw.text((left, 24), f"{steps} step{'' if steps == 1 else 's'}", _MUTED, font=font)
    for number, prompt in enumerate(shown):
        top = _HEAD + number * (_TILE + _GAP)
        _label(draw, prompts[prompt], top, font)
        for place, left in lefts.items():
            key, made = keys[prompt, *place]
            picture = images.read(key) if made else None
            if picture is None:
                draw.rectangle((left, top, left + _TILE - 1, top + _TILE - 1), _MISSING)
                draw.text((left + 6, top + _TILE // 2 - 8), "no picture", _MUTED, font=font)
            else:
                tile = _fitted(picture)
                sheet.paste(tile, (left + (_TILE - tile.width) // 2, top + (_TILE - tile.height) // 2))
    return sheet


def _lefts(places: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Left edge of each column, with a wider gap between checkpoints."""
    checkpoints = list(dict.fromkeys(checkpoint for checkpoint, _ in places))
    return {
        place: _LABEL + number * (_TILE + _GAP) + checkpoints.index(place[0]) * 3 * _GAP
        for number, place in enumerate(places)
    }


def _label(draw: ImageDraw.ImageDraw, text: str, top: int, font: Font) -> None:
    lines = textwrap.wrap(text, 26) or [""]
    if len(lines) > 6:
        lines = [*lines[:5], lines[5][:23] + "..."]
    draw.multiline_text((6, top + 2), "\n".join(lines), _INK, font=font, spacing=3)


def _fitted(picture: Image.Image) -> Image.Image:
    """The picture at the size of a tile, its proportions kept."""
    from PIL import Image

    scale = _TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)


def png_bytes(picture: Image.Image) -> bytes:
    """A picture as a PNG file's content."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
