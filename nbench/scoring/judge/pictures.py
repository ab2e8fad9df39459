"""Pictures and human verdicts that a judge is checked on: bundled scenes, a folder, a file of pairs."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from nbench.errors import UsageError
from nbench.pocket.scenes import sample_scenes
from nbench.scoring.judge.calibration import HumanPair, Picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def read_pictures(folder: Path | None, limit: int | None = None) -> list[Picture]:
    """Pictures with their prompts: of a folder, sorted by name, or the 16 bundled scenes.

    Args:
        folder: of pictures; the prompt of fox.png is in fox.txt, and "" without one. None takes the bundled scenes.
        limit: at most so many.

    Raises:
        UsageError: the folder holds too few, or one cannot be read.
    """
    if folder is None:
        return sample_scenes()[:limit]
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)[:limit]
    if len(files) < 2:
        raise UsageError(f"{folder} holds {len(files)} pictures ({', '.join(SUFFIXES)}): a check needs two at least.")
    return [(_open(path), _prompt(path.with_suffix(".txt"))) for path in files]


def read_human(path: Path) -> list[HumanPair]:
    """Pairs of a file of JSON lines; pictures are relative to the file.

    Raises:
        UsageError: a line is wrong, or a picture cannot be read.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            a, b, winner = (str(record[key]) for key in ("a", "b", "winner"))
            prompt = str(record.get("prompt", ""))
        except (ValueError, LookupError, TypeError, AttributeError):
            winner = ""
        if winner not in ("a", "b"):
            raise UsageError(
                f'line {number} of {path} is no pair: write {{"a": FILE, "b": FILE, "winner": "a" or "b"}}.'
            )
        found.append(HumanPair(_open(path.parent / a), _open(path.parent / b), prompt, winner == "a"))
    if not found:
        raise UsageError(f"{path} holds no pair.")
    return found


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"the picture {path} cannot be read ({error}): repair or remove it.") from error


def _prompt(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
