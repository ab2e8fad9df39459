import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nbench.errors import StoreError
from nbench.runs import images as module
from nbench.runs.files import TEMPORARY
from nbench.runs.images import ImageStore, NewPicture, read_settings


def picture(number: int = 0, **settings: Any) -> NewPicture:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return NewPicture(
        {"n": number, "prompt": "ein Äpfel “x”", "height": 8, "width": 12, **settings}, pixels, [1.5, 0.25]
    )


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


def test_a_picture_comes_back_with_pixels_settings_and_norms(store: ImageStore) -> None:
    new = picture()
    store.put([new])
    found = store.find([new.key, "00" * 32])
    assert list(found) == [new.key]
    assert found[new.key].norms == (1.5, 0.25)
    read = store.read(new.key)
    assert read is not None
    assert np.array_equal(np.asarray(read), new.pixels)
    assert read_settings(store.path(new.key)) == new.settings


def test_bytes_depend_on_pixels_settings_and_norms_alone(tmp_path: Path) -> None:
    first, second = ImageStore(tmp_path / "a"), ImageStore(tmp_path / "b")
    first.put([picture(1), picture(2)])
    second.put([picture(2)])
    second.put([picture(1)])
    for number in (1, 2):
        key = picture(number).key
        assert first.path(key).read_bytes() == second.path(key).read_bytes()


def test_every_truncation_is_noticed(store: ImageStore) -> None:
    new = picture()
    store.put([new])
    path = store.path(new.key)
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert store.find([new.key]) == {}, length
        assert not path.exists()
    assert len(store.corrupt) == len(list(path.parent.glob("*.corrupt*"))) > 50


def test_every_flipped_byte_is_noticed(store: ImageStore) -> None:
    new = picture()
    store.put([new])
    path = store.path(new.key)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        path.write_bytes(damaged)
        assert store.find([new.key], move=False) == {}, place
    path.write_bytes(whole)
    assert store.find([new.key])


def test_a_foreign_picture_under_a_key_is_moved_aside(store: ImageStore) -> None:
    new = picture()
    store.put([new])
    Image.new("RGB", (12, 8)).save(store.path(new.key))
    assert store.read(new.key) is None
    assert "not written by nbench" in store.corrupt[0].reason
    assert store.corrupt[0].moved_to.exists()


def test_another_picture_of_the_store_under_a_key_is_moved_aside(store: ImageStore) -> None:
    one, two = picture(1), picture(2)
    store.put([one, two])
    store.path(one.key).write_bytes(store.path(two.key).read_bytes())
    assert list(store.find([one.key, two.key])) == [two.key]
    assert "another picture" in store.corrupt[0].reason


def test_settings_that_do_not_hash_to_the_key_are_noticed(store: ImageStore) -> None:
    new = picture()
    store.put([new])
    path = store.path(new.key)
    data = path.read_bytes()
    # Change a setting and make its checksum right, as a tool that edits metadata would.
    place = data.index(b'"n":0')
    changed = data[:place] + b'"n":7' + data[place + 5 :]
    start = data.index(b"nbench-settings") - 8
    (length,) = struct.unpack_from(">I", changed, start)
    check = struct.pack(">I", zlib.crc32(changed[start + 4 : start + 8 + length]))
    path.write_bytes(changed[: start + 8 + length] + check + changed[start + 12 + length :])
    assert store.find([new.key]) == {}


def test_a_second_damaged_file_does_not_overwrite_the_first(store: ImageStore) -> None:
    new = picture()
    for content in (b"one", b"two"):
        store.put([new])
        store.path(new.key).write_bytes(content)
        assert store.find([new.key]) == {}
    assert [corrupt.moved_to.read_bytes() for corrupt in store.corrupt] == [b"one", b"two"]


def test_a_full_disk_leaves_no_half_picture(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    old, new = picture(1), picture(2)
    store.put([old])

    def full(path: Path, data: bytes) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "stage", full)
    with pytest.raises(StoreError, match="the disk is full"):
        store.put([new])
    assert list(store.find([old.key, new.key])) == [old.key]
    assert not store.corrupt


def test_only_old_temp_files_are_removed(store: ImageStore) -> None:
    import os

    store.put([picture()])
    folder = store.path(picture().key).parent
    old, young = folder / f"{TEMPORARY}1-a", folder / f"{TEMPORARY}2-b"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert store.remove_stale() == 1
    assert young.exists() and not old.exists()
