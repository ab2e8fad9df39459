"""Signs: pictures of written text, drawn on the spot, with prompts that quote it. For checks of text readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from nbench.pocket.scenes import Picture

Colour = tuple[int, int, int]

#: text, background, ink
_SIGNS: tuple[tuple[str, Colour, Colour], ...] = (
    ("OPEN", (250, 250, 245), (20, 20, 20)),
    ("Fresh Bread", (120, 72, 40), (255, 246, 214)),
    ("EXIT 42", (20, 110, 60), (255, 255, 255)),
    ("NO PARKING", (255, 255, 255), (190, 20, 30)),
)


def draw_sign(text: str, size: int = 256, background: Colour = (255, 255, 255), ink: Colour = (0, 0, 0)) -> Image.Image:
    """A square RGB picture of `size` pixels with `text` across its middle, in the font that Pillow bundles.

    Args:
        text: one line; it is drawn as large as four fifths of the width allow.
        size: pixels a side, at least 32.
        background: of the sign.
        ink: of the text.
    """
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (size, size), background)
    draw = ImageDraw.Draw(image)
    height = size // 4
    while height > 6 and draw.textlength(text, font=ImageFont.load_default(height)) > 0.8 * size:
        height -= 1
    margin = size // 16
    draw.rectangle((margin, margin, size - margin, size - margin), outline=ink, width=max(1, size // 64))
    draw.text((size / 2, size / 2), text, fill=ink, font=ImageFont.load_default(height), anchor="mm")
    return image


def sample_signs(size: int = 256) -> list[Picture]:
    """Four signs with prompts that quote their text."""
    return [
        (draw_sign(text, size, background, ink), f'a sign on a wall that says "{text}"')
        for text, background, ink in _SIGNS
    ]
