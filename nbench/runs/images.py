"""The content-addressed picture store: STORE/images/ab/abcdef....png.

A picture's key is the sha256 of the canonical JSON of everything that made it. The PNG carries that JSON, the key and
the velocity norms of its trajectory in its own text chunks, so a file proves what it is: the settings must hash to the
key, the key must be the file's name, and every chunk's checksum must hold. A file that fails is renamed to `.corrupt`,
reported, and made again; it is never reused. PNG bytes depend on pixels, settings and norms alone.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbench.errors import StoreError
from nbench.runs.canonical import canonical_json, digest
from nbench.runs.files import remove_stale, stage, store_errors, sync_folder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEY, _SETTINGS, _NORMS = "nbench-key", "nbench-settings", "nbench-norms"
_COMPRESSION = 6
_THREADS = 4
_KEYS_A_TASK = 64  # a task per small file would cost more than reading it


@dataclass(frozen=True)
class NewPicture:
    """A picture to be stored.

    Attributes:
        settings: everything that made it; its canonical JSON hashes to the key.
        pixels: uint8 [H, W, 3].
        norms: RMS of the guided velocity at each step.
    """

    settings: Mapping[str, Any]
    pixels: npt.NDArray[np.uint8]
    norms: Sequence[float]

    @property
    def key(self) -> str:
        """The picture's key, hex."""
        return digest(self.settings)


@dataclass(frozen=True)
class StoredPicture:
    """A picture that is in the store and sound.

    Attributes:
        key: its key.
        norms: RMS of the guided velocity at each step.
        size: bytes on disk.
    """

    key: str
    norms: tuple[float, ...]
    size: int


@dataclass(frozen=True)
class Corrupt:
    """A file that was not what its name says, and where it was moved."""

    key: str
    reason: str
    moved_to: Path


class PictureError(ValueError):
    """Why a file is not the picture that its name says."""


class ImageStore:
    """Pictures by key.

    Attributes:
        folder: STORE/images.
        corrupt: every file that was moved aside since this object was made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corrupt: list[Corrupt] = []

    def path(self, key: str) -> Path:
        """Where the picture of `key` lies, or would."""
        return self.folder / key[:2] / f"{key}.png"

    def find(self, keys: Iterable[str], *, move: bool = True) -> dict[str, StoredPicture]:
        """Those of `keys` that are in the store and sound; every byte of each is checked.

        Unsound files are moved aside, or with `move=False` left where they are.

        Raises:
            StoreError: a file cannot be read, or moved.
        """
        found: dict[str, StoredPicture] = {}
        wanted = list(dict.fromkeys(keys))
        groups = [wanted[start : start + _KEYS_A_TASK] for start in range(0, len(wanted), _KEYS_A_TASK)]
        with ThreadPoolExecutor(_THREADS) as pool:
            for results in pool.map(lambda group: [self._inspect(key) for key in group], groups):
                for key, result in results:
                    if isinstance(result, StoredPicture):
                        found[key] = result
                    elif result is not None and move:
                        self._move_aside(key, str(result))
        return found

    def _inspect(self, key: str) -> tuple[str, StoredPicture | PictureError | None]:
        path = self.path(key)
        with store_errors(path, "read"):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                return key, None
        try:
            return key, _verify(key, data)
        except PictureError as error:
            return key, error

    def read(self, key: str) -> Image.Image | None:
        """The decoded RGB picture of `key`; None when it is missing, or was unsound and is now moved aside.

        Raises:
            StoreError: the file cannot be read, or moved.
        """
        from PIL import Image

        path = self.path(key)
        with store_errors(path, "read"):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                return None
        try:
            _verify(key, data)
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                return image.convert("RGB")
        except (PictureError, OSError, ValueError, SyntaxError) as error:
            self._move_aside(key, str(error))
            return None

    def put(self, pictures: Sequence[NewPicture]) -> None:
        """Store pictures, durable when this returns. One that is there already is replaced by equal content.

        Raises:
            StoreError: the disk refuses. Pictures are there wholly or not at all.
        """
        folders = sorted({self.path(picture.key).parent for picture in pictures})
        with store_errors(self.folder):
            missing = [folder for folder in folders if not folder.is_dir()]
            for folder in missing:
                folder.mkdir(parents=True, exist_ok=True)
            if missing:
                sync_folder(self.folder)
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(self._put, pictures))
        for folder in folders:
            with store_errors(folder):
                sync_folder(folder)

    def _put(self, picture: NewPicture) -> None:
        path = self.path(picture.key)
        with store_errors(path):
            stage(path, _encode(picture)).replace(path)

    def remove_stale(self) -> int:
        """Delete temp files that killed processes left; returns how many."""
        return sum(remove_stale(folder) for folder in sorted(self.folder.glob("??")))

    def _move_aside(self, key: str, reason: str) -> None:
        path = self.path(key)
        target = path.with_name(f"{path.name}.corrupt")
        number = 1
        while target.exists():
            number += 1
            target = path.with_name(f"{path.name}.corrupt{number}")
        with store_errors(path, "move aside the damaged picture"):
            try:
                os.rename(path, target)  # noqa: PTH104 - never over an existing file: `target` is new
            except FileNotFoundError:
                return  # another process was quicker
        self.corrupt.append(Corrupt(key, reason, target))


def _encode(picture: NewPicture) -> bytes:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(_KEY, picture.key)
    info.add_text(_SETTINGS, canonical_json(picture.settings))
    info.add_text(_NORMS, canonical_json(list(picture.norms)))
    buffer = io.BytesIO()
    Image.fromarray(picture.pixels).save(buffer, "PNG", pnginfo=info, compress_level=_COMPRESSION)
    return buffer.getvalue()


def _verify(key: str, data: bytes) -> StoredPicture:
    """Check every chunk's checksum, that the text chunks name `key`, and that the size is the settings'."""
    texts: dict[str, str] = {}
    size = (0, 0)
    for kind, body in _chunks(data):
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        elif kind == b"tEXt":
            name, _, text = body.partition(b"\0")
            texts[name.decode("latin-1")] = text.decode("latin-1")
    if not {_KEY, _SETTINGS, _NORMS} <= texts.keys():
        raise PictureError("it was not written by nbench: it does not say what made it")
    try:
        settings, norms = json.loads(texts[_SETTINGS]), json.loads(texts[_NORMS])
        sound = texts[_KEY] == key == digest(settings)
        fits = (settings["width"], settings["height"]) == size
    except (ValueError, KeyError, TypeError) as error:
        raise PictureError(f"its metadata cannot be read ({error})") from error
    if not sound:
        raise PictureError(f"it is another picture ({texts[_KEY][:12]}...)")
    if not fits:
        raise PictureError(f"it is {size[0]}x{size[1]} pixels, its settings say otherwise")
    return StoredPicture(key, tuple(float(norm) for norm in norms), len(data))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not data.startswith(_SIGNATURE):
        raise PictureError("it is empty" if not data else "it is not a PNG file")
    view = memoryview(data)
    position, ended = len(_SIGNATURE), False
    while position < len(data):
        if position + 12 > len(data) or ended:
            raise PictureError("it is cut short" if not ended else "something follows its end")
        (length,) = struct.unpack_from(">I", data, position)
        stop = position + 12 + length
        if stop > len(data):
            raise PictureError("it is cut short")
        (expected,) = struct.unpack_from(">I", data, stop - 4)
        if zlib.crc32(view[position + 4 : stop - 4]) != expected:
            raise PictureError(f"it is damaged near byte {position} (checksum)")
        kind = bytes(view[position + 4 : position + 8])
        ended = kind == b"IEND"
        yield kind, bytes(view[position + 8 : stop - 4]) if kind != b"IDAT" else b""
        position = stop
    if not ended:
        raise PictureError("it is cut short")


def read_settings(path: Path) -> dict[str, Any]:
    """What a stored picture says of itself: the settings that hash to its key.

    Raises:
        StoreError: the file is missing or unsound.
    """
    with store_errors(path, "read"):
        data = path.read_bytes()
    try:
        _verify(path.stem, data)
    except PictureError as error:
        raise StoreError(f"{path} is not a picture of this store: {error}.") from error
    text = next(body for kind, body in _chunks(data) if kind == b"tEXt" and body.startswith(_SETTINGS.encode() + b"\0"))
    settings: dict[str, Any] = json.loads(text.partition(b"\0")[2])
    return settings
