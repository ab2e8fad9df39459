"""Writes that survive kill -9 and power loss: temp file in the same folder, fsync, replace, fsync of the folder."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nbench.errors import StoreError

#: temp files begin with this; readers never open them
TEMPORARY = ".nbench-tmp-"
_STALE_AFTER = 3600.0  # seconds; a temp file lives for milliseconds, so an hour-old one belongs to a dead process
_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file-size limit is reached; raise it",
    errno.EROFS: "the file system is read-only; make it writable, or choose another store with --store",
    errno.EACCES: "permission is denied; make it writable, or choose another store with --store",
    errno.EPERM: "permission is denied; make it writable, or choose another store with --store",
}


@contextmanager
def store_errors(path: Path, doing: str = "write") -> Iterator[None]:
    """Turn an OSError inside into a StoreError that names `path` and says what to do.

    Raises:
        StoreError: the block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, f"{error.strerror or error}; check the disk")
        raise StoreError(
            f"cannot {doing} {path}: {advice}, and run the same command again (what is finished is kept)."
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, however few bytes each call takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def stage(path: Path, data: bytes) -> Path:
    """Write and fsync `data` in a temp file beside `path`; the caller replaces `path` by it.

    Raises:
        OSError: the disk refuses. The temp file is removed.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def write_atomic(path: Path, data: bytes) -> None:
    """Put `data` at `path`, wholly or not at all, and durably.

    Raises:
        StoreError: the disk refuses; what stood at `path` before still does.
    """
    with store_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stage(path, data).replace(path)
        sync_folder(path.parent)


def remove_stale(folder: Path) -> int:
    """Delete temp files that a killed process left in `folder`; returns how many."""
    removed = 0
    if folder.is_dir():
        for path in folder.glob(f"{TEMPORARY}*"):
            try:
                if time.time() - path.stat().st_mtime > _STALE_AFTER:
                    path.unlink()
                    removed += 1
            except OSError:
                continue  # another process was quicker, or the store is read-only: neither matters here
    return removed
