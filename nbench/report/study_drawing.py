"""A drawing that is written as SVG or as PNG: one layout for both, without a plotting library.

What is drawn is named by an ink, never by a colour. Colours are those of the pages on white; c0 is the base's.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

INKS = {
    "ink": "#1c1d1f", "muted": "#5d6167", "grid": "#e6e8ea", "axis": "#8a8f96", "soft": "#f4f5f6",
    "good": "#16703c", "bad": "#b3261e",
    "c0": "#6b6f76", "c1": "#0072b2", "c2": "#d55e00", "c3": "#00855f", "c4": "#b2568f", "c5": "#b67a00",
    "c6": "#2f8fc4",
}  # fmt: skip
Point = tuple[float, float]

_SCALE, _FINER = 2, 2  # pixels of a PNG per unit, and how much finer it is drawn before it is scaled down
_ASCII = str.maketrans({"−": "-", "–": "-", "×": "x", "†": "+", "↑": "", "↓": "", "∞": "inf", "·": "-"})
JPEG_QUALITY = 88


@dataclass(frozen=True)
class _Shape:
    """A polygon, or an open line where it has a width."""

    points: tuple[Point, ...]
    ink: str
    width: float = 0.0
    opacity: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class _Dot:
    place: Point
    radius: float
    ink: str


@dataclass(frozen=True)
class _Text:
    place: Point
    text: str
    ink: str
    size: float
    anchor: str
    bold: bool
    turned: bool


@dataclass(frozen=True)
class _Picture:
    place: Point
    size: tuple[int, int]
    image: Image.Image


class Drawing:
    """Shapes in the order of drawing.

    Attributes:
        width, height: in units, which are pixels of the SVG.
        title: what a screen reader says.
    """

    def __init__(self, width: int, height: int, title: str = "") -> None:
        self.width, self.height, self.title = width, height, title
        self._parts: list[_Shape | _Dot | _Text | _Picture] = []

    def line(self, points: Sequence[Point], ink: str, *, width: float = 1.0, dashed: bool = False) -> None:
        """An open line."""
        if len(points) > 1:
            self._parts.append(_Shape(tuple(points), ink, width=width, dashed=dashed))

    def polygon(self, points: Sequence[Point], ink: str, *, opacity: float = 1.0) -> None:
        """A filled polygon."""
        self._parts.append(_Shape(tuple(points), ink, opacity=opacity))

    def box(self, x: float, y: float, width: float, height: float, ink: str) -> None:
        """A filled rectangle."""
        self.polygon([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], ink)

    def dot(self, x: float, y: float, radius: float, ink: str) -> None:
        """A filled circle."""
        self._parts.append(_Dot((x, y), radius, ink))

    def text(
        self, x: float, y: float, text: str, *, ink: str = "muted", size: float = 11, anchor: str = "start",
        bold: bool = False, turned: bool = False,
    ) -> None:  # fmt: skip
        """A line of text; `y` is its base line, `anchor` start, middle or end; `turned` reads upwards."""
        self._parts.append(_Text((x, y), text, ink, size, anchor, bold, turned))

    def picture(self, x: float, y: float, image: Image.Image, size: tuple[int, int] | None = None) -> None:
        """A picture, at its own size or another."""
        self._parts.append(_Picture((x, y), size or image.size, image))

    def svg(self) -> str:
        """As a whole SVG document."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" font-family="system-ui, Arial, sans-serif" role="img">'
        )
        title = f"<title>{escape(self.title)}</title>"
        paper = f'<rect width="{self.width}" height="{self.height}" fill="white"/>'
        return "\n".join([head, title, paper, *map(_svg, self._parts), "</svg>\n"])

    def png(self) -> bytes:
        """As a PNG of two pixels per unit."""
        buffer = io.BytesIO()
        self.image(_SCALE).save(buffer, "PNG", compress_level=6)
        return buffer.getvalue()

    def image(self, scale: int) -> Image.Image:
        """As a picture of `scale` pixels per unit."""
        from PIL import Image, ImageDraw

        size = (self.width * scale, self.height * scale)
        fine = scale * _FINER
        sheet = Image.new("RGB", (self.width * fine, self.height * fine), "white")
        draw = ImageDraw.Draw(sheet, "RGBA")
        for part in self._parts:
            if isinstance(part, _Shape):
                _shape(draw, part, fine)
            elif isinstance(part, _Dot):
                (x, y), radius = part.place, part.radius
                ends = [end * fine for end in (x - radius, y - radius, x + radius, y + radius)]
                draw.ellipse(ends, fill=INKS[part.ink])
        sheet = sheet.resize(size, Image.Resampling.LANCZOS)
        for part in self._parts:  # text and pictures lie above, at their final size
            if isinstance(part, _Picture):
                _paste(sheet, part, scale)
        for part in self._parts:
            if isinstance(part, _Text):
                _write(sheet, part, scale)
        return sheet


def _svg(part: _Shape | _Dot | _Text | _Picture) -> str:
    if isinstance(part, _Shape):
        colour = INKS[part.ink]
        if part.width:
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in part.points)
            dashes = ' stroke-dasharray="5 3"' if part.dashed else ""
            pen = f'stroke="{colour}" stroke-width="{part.width:g}" stroke-linejoin="round"{dashes}'
            return f'<path d="{path}" fill="none" {pen}/>'
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in part.points)
        return f'<polygon points="{points}" fill="{colour}" fill-opacity="{part.opacity:g}"/>'
    x, y = part.place
    if isinstance(part, _Dot):
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{part.radius:g}" fill="{INKS[part.ink]}"/>'
    if isinstance(part, _Picture):
        width, height = part.size
        uri = f"data:image/jpeg;base64,{base64.b64encode(jpeg(part.image)).decode('ascii')}"
        return f'<image x="{x:.1f}" y="{y:.1f}" width="{width}" height="{height}" href="{uri}"/>'
    place = f'transform="translate({x:.1f},{y:.1f}) rotate(-90)"' if part.turned else f'x="{x:.1f}" y="{y:.1f}"'
    weight = ' font-weight="600"' if part.bold else ""
    look = f'text-anchor="{part.anchor}" font-size="{part.size:g}" fill="{INKS[part.ink]}"{weight}'
    return f"<text {place} {look}>{escape(part.text)}</text>"


def jpeg(image: Image.Image) -> bytes:
    """A picture as JPEG, its colours at full size."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    return buffer.getvalue()


def _shape(draw: ImageDraw.ImageDraw, part: _Shape, scale: int) -> None:
    points = [(x * scale, y * scale) for x, y in part.points]
    red, green, blue = (int(INKS[part.ink][i : i + 2], 16) for i in (1, 3, 5))
    if not part.width:
        draw.polygon(points, fill=(red, green, blue, round(255 * part.opacity)))
        return
    width = max(1, round(part.width * scale))
    for piece in _dashes(points, 5.0 * scale, 3.0 * scale) if part.dashed else [points]:
        draw.line(piece, fill=(red, green, blue, 255), width=width, joint="curve")


def _dashes(points: Sequence[Point], on: float, off: float) -> Iterator[list[Point]]:
    """The pieces of a line that are drawn."""
    piece: list[Point] = [points[0]]
    drawn, left = True, on
    for (x0, y0), (x1, y1) in pairwise(points):
        length = math.hypot(x1 - x0, y1 - y0)
        done = 0.0
        while length - done > left:
            done += left
            place = (x0 + (x1 - x0) * done / length, y0 + (y1 - y0) * done / length)
            if drawn:
                yield [*piece, place]
            piece, drawn = [place], not drawn
            left = on if drawn else off
        left -= length - done
        if drawn:
            piece.append((x1, y1))
    if drawn and len(piece) > 1:
        yield piece


def _paste(sheet: Image.Image, part: _Picture, scale: int) -> None:
    from PIL import Image

    width, height = (side * scale for side in part.size)
    resampling = Image.Resampling.LANCZOS if width <= part.image.width else Image.Resampling.BICUBIC
    x, y = (round(place * scale) for place in part.place)
    sheet.paste(part.image.convert("RGB").resize((width, height), resampling), (x, y))


def _write(sheet: Image.Image, part: _Text, scale: int) -> None:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=part.size * scale)
    text = part.text.translate(_ASCII)  # the font that comes with Pillow has little else
    x, y = (place * scale for place in part.place)
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[part.anchor]
    stroke = 0.3 * scale if part.bold else 0
    if not part.turned:
        ImageDraw.Draw(sheet).text((x, y), text, INKS[part.ink], font=font, anchor=anchor, stroke_width=stroke)
        return
    width, height = math.ceil(font.getlength(text)) + 4, math.ceil(part.size * scale * 1.6)
    mask = Image.new("L", (width, height), 0)
    ImageDraw.Draw(mask).text((2, height * 0.75), text, 255, font=font, anchor="ls", stroke_width=stroke)
    mask = mask.rotate(90, expand=True)
    shift = {"start": width, "middle": width / 2, "end": 0}[part.anchor]
    sheet.paste(INKS[part.ink], (round(x - height * 0.75), round(y - shift)), mask)
