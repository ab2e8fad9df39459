"""Weight files of bundled scorers: where they are, and their digests for the card."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from nbench.errors import ScorerError


def digests(folder: Path, files: Sequence[str], recipe: str) -> dict[str, str]:
    """sha256 (hex) by file name; a file is read again only when its size or time of change is another.

    Args:
        folder: where the files are.
        files: names in it.
        recipe: module that makes them, for the message.

    Raises:
        ScorerError: a file is missing or unreadable.
    """
    found = {}
    for name in files:
        path = folder / name
        try:
            stat = path.stat()
            found[name] = _digest(path, stat.st_size, stat.st_mtime_ns)
        except OSError as error:
            raise ScorerError(
                f"the weight file {path} cannot be read ({error.strerror}): reinstall nbench, or make it with "
                f"`python -m {recipe} --work WORK` and copy WORK's export there."
            ) from error
    return found


@functools.cache
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
