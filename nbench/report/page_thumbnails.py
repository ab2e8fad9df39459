"""Pictures at the size of a page: WebP thumbnails, as files beside a page or inside it."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from nbench.runs.files import store_errors

if TYPE_CHECKING:
    from PIL import Image

#: longest side of a thumbnail inside a page, and of one beside it, in pixels
SMALL, LARGE = 192, 384
_LOSSLESS = 96  # pictures no larger than this are kept as they are
_MOST_PIXELS = 64_000_000
_THREADS = 4
_KEY = re.compile(r"[0-9a-f]{64}")
_NAME = 20  # hex digits of a key that name a file: 80 bits


def thumbnail(picture: Image.Image, side: int = SMALL) -> bytes:
    """A picture as WebP, no side longer than `side`, without metadata; lossless where it is tiny."""
    from PIL import Image

    scale = side / max(picture.size)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    tiny = max(picture.size) <= _LOSSLESS
    picture.convert("RGB").save(buffer, "WEBP", lossless=tiny, quality=100 if tiny else 84, method=4)
    return buffer.getvalue()


def redrawn(data: bytes, side: int = SMALL) -> bytes | None:
    """A stranger's WebP decoded and encoded again, so that nothing but pixels is left; None where that fails."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                return None
            return thumbnail(picture.convert("RGB"), side)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def data_uri(webp: bytes) -> str:
    """A WebP picture as the text of a `src`."""
    return f"data:image/webp;base64,{base64.b64encode(webp).decode('ascii')}"


def thumbnail_path(key: str) -> str:
    """Where a picture's thumbnail lies below the folder of a page."""
    name = key if _KEY.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()  # a path is never made from a text
    return f"pictures/{name[:2]}/{name[:_NAME]}.webp"


def write_thumbnails(
    keys: Iterable[str],
    read: Callable[[str], Image.Image | None],
    out: Path,
    progress: Callable[[int], None] | None = None,
) -> Mapping[str, str]:
    """Write the thumbnails that `out` has not yet.

    Args:
        keys: of pictures.
        read: key -> picture; None where there is none.
        out: folder of the page.
        progress: is called with how many are done.

    Returns:
        Key -> path below `out`, for pictures that exist.

    Raises:
        StoreError: a picture cannot be read, or the disk refuses.
    """

    def make(key: str) -> bool:
        path = out / thumbnail_path(key)
        with store_errors(path):
            if path.is_file() and path.stat().st_size:
                return True
            picture = read(key)
            if picture is None:
                return False
            path.parent.mkdir(parents=True, exist_ok=True)
            # No fsync for each of thousands: they can be made again.
            temporary = path.with_suffix(".part")
            temporary.write_bytes(thumbnail(picture, LARGE))
            temporary.replace(path)
        return True

    wanted = list(dict.fromkeys(keys))
    found = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for number, (key, made) in enumerate(zip(wanted, pool.map(make, wanted), strict=True), start=1):
            if made:
                found[key] = thumbnail_path(key)
            if progress is not None:
                progress(number)
    return found
