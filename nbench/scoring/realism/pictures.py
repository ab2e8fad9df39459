"""Folders of real and of generated pictures: what they hold, whether they can be compared, and which belong together.

A detector learns whatever differs between the sides. Where real pictures are JPEG of many sizes and generated ones PNG
of one, that is what it learns (Grommelt et al. 2024, "Fake or JPEG?"), and every figure measured so is worthless.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nbench.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
#: share of pictures that may differ in format or size between the sides
ALLOWED = 0.1
#: the default group of a file: its name without the last part behind -, _ or . ("fox-3.png" belongs to "fox")
GROUP = r"(.+)[-_.][^-_.]+"


@dataclass(frozen=True)
class Picture:
    """One picture file.

    Attributes:
        path: the file.
        group: what it belongs to; pictures of a group never stand on both sides of a split.
        kind: file format, with the quality of a JPEG to the nearest ten.
        size: width and height in pixels.
    """

    path: Path
    group: str
    kind: str
    size: tuple[int, int]

    def open(self) -> Image.Image:
        """The picture in RGB, turned as its EXIF says.

        Raises:
            UsageError: it cannot be decoded.
        """
        from PIL import Image, ImageOps

        try:
            with Image.open(self.path) as image:
                turned: Image.Image = ImageOps.exif_transpose(image).convert("RGB")
                return turned
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise UsageError(f"the picture {self.path} cannot be read ({error}): repair or remove it.") from error


def describe(path: Path, group: str) -> Picture:
    """The facts of a picture file; its pixels are not decoded.

    Raises:
        UsageError: it cannot be opened.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return Picture(path, group, _kind(image), image.size)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"the picture {path} cannot be read ({error}): repair or remove it.") from error


def read_folder(folder: Path, group: str = GROUP) -> list[Picture]:
    """Every picture under a folder, in the order of the paths.

    Args:
        folder: searched with its subfolders.
        group: regular expression matched against a path below the folder, without suffix; its first bracket names the
            group. A name that it does not match is a group of its own.

    Raises:
        UsageError: there is no picture, one cannot be opened, or the expression is no good.
    """
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise UsageError(f"--group {group!r} is not a regular expression: {error}.") from error
    if pattern.groups < 1:
        raise UsageError(f"--group {group!r} has no bracket: put what names the group into (...).")
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: give a folder of pictures.")
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
        name = path.relative_to(folder).with_suffix("").as_posix()
        match = pattern.fullmatch(name)
        found.append(describe(path, match.group(1) if match else name))
    if not found:
        raise UsageError(f"{folder} holds no picture ({', '.join(SUFFIXES)}): give a folder of pictures.")
    return found


def _kind(image: Image.Image) -> str:
    tables: Mapping[int, Sequence[int]] | None = getattr(image, "quantization", None)
    if image.format != "JPEG" or not tables:
        return str(image.format)
    return f"JPEG of quality about {10 * round(_quality(tables[min(tables)]) / 10)}"


def _quality(table: Sequence[int]) -> float:
    """The libjpeg quality whose luminance table has the mean of this one."""
    mean, usual = sum(table) / len(table), 57.6  # of the table in annex K of the JPEG standard, quality 50
    scale = 100 * mean / usual
    return max(1.0, min(100.0, (200 - scale) / 2 if scale <= 100 else 5000 / scale))


def differences(real: Sequence[Picture], fake: Sequence[Picture]) -> list[str]:
    """What tells the two sides apart without looking at a picture, in sentences; empty where nothing does."""
    found = []
    for what, column in (("format", lambda one: one.kind), ("size", lambda one: "{}x{}".format(*one.size))):
        sides = [Counter(column(picture) for picture in side) for side in (real, fake)]
        share = _distance(sides[0], sides[1])
        if share > ALLOWED:
            words = [_most(side) for side in sides]
            found.append(f"the {what} differs: real pictures are {words[0]}; generated ones are {words[1]}")
    return found


def _distance(one: Counter[str], other: Counter[str]) -> float:
    """Total variation between two distributions, 0 to 1."""
    total = one.total(), other.total()
    return 0.5 * sum(abs(one[name] / total[0] - other[name] / total[1]) for name in one | other)


def _most(counts: Counter[str]) -> str:
    named = ", ".join(f"{name} ({count})" for name, count in counts.most_common(3))
    return named + (f" and {len(counts) - 3} others" if len(counts) > 3 else "")


def split(pictures: Sequence[Picture], share: float, seed: int) -> tuple[list[Picture], list[Picture]]:
    """Pictures of most groups, and of about `share` of the groups, which ones decided by name and seed alone.

    A group of the same name on the real and on the generated side falls on the same part of the split.
    """
    import hashlib

    def held_out(group: str) -> bool:
        digest = hashlib.sha256(f"{seed}\0{group}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < share * 2**64

    kept = [picture for picture in pictures if not held_out(picture.group)]
    return kept, [picture for picture in pictures if held_out(picture.group)]
