import errno
import os
import stat
from pathlib import Path

import pytest

from nbench.errors import StoreError
from nbench.runs.files import TEMPORARY, store_errors, write_atomic


def test_a_write_is_synced_before_it_is_seen_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    replace = os.replace

    def fsync(descriptor: int) -> None:
        events.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")

    def spied(source: Path, target: Path) -> None:
        assert Path(source).parent == Path(target).parent
        events.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", spied)
    write_atomic(tmp_path / "new" / "file", b"content")
    assert (tmp_path / "new" / "file").read_bytes() == b"content"
    assert events == ["sync file", "replace", "sync folder"]


def test_a_refused_write_leaves_the_old_content_and_no_temp_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full; free some space, and run the same command again"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert not list(tmp_path.glob(f"{TEMPORARY}*"))


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only; make it writable, or choose another store with --store"),
        (errno.EACCES, "permission is denied"),
        (errno.EIO, "Input/output error; check the disk"),
    ],
)
def test_every_refusal_says_what_to_do(code: int, advice: str) -> None:
    with pytest.raises(StoreError, match=advice) as caught, store_errors(Path("/store/x")):
        raise OSError(code, os.strerror(code))
    assert str(caught.value).startswith("cannot write /store/x: ")
    assert caught.value.exit_code == 4


def test_a_store_whose_folder_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot write"):
        write_atomic(tmp_path / "store" / "images" / "x", b"")
