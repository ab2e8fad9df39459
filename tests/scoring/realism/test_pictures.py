"""Folders of pictures: groups by name, what tells two sides apart, splits without leakage."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nbench.errors import UsageError
from nbench.scoring.realism.pictures import describe, differences, read_folder, split


def fill(folder: Path, names: list[str], *, size: tuple[int, int] = (40, 40), **options: int) -> Path:
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(noise).save(path, **options)
    return folder


def test_a_group_is_the_name_without_its_last_part(tmp_path: Path) -> None:
    fill(tmp_path, ["fox-0.png", "fox-1.png", "red-car_12.png", "sub/fox-2.png", "plain.png"])
    assert [picture.group for picture in read_folder(tmp_path)] == ["fox", "fox", "plain", "red-car", "sub/fox"]


def test_the_user_may_say_what_a_group_is(tmp_path: Path) -> None:
    fill(tmp_path, ["0-fox.png", "1-fox.png", "2-cat.png"])
    assert [picture.group for picture in read_folder(tmp_path, r"\d-(.+)")] == ["fox", "fox", "cat"]


@pytest.mark.parametrize(("group", "said"), [("(", "not a regular expression"), ("abc", "has no bracket")])
def test_a_bad_expression_is_explained(tmp_path: Path, group: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_folder(fill(tmp_path, ["a.png"]), group)


def test_a_folder_without_pictures_and_a_broken_picture_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no picture"):
        read_folder(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"bad\.png cannot be read"):
        read_folder(tmp_path)


def test_jpeg_quality_is_read_off_the_file(tmp_path: Path) -> None:
    for quality in (30, 50, 70, 90):
        fill(tmp_path, [f"q{quality}.jpg"], quality=quality)
        assert describe(tmp_path / f"q{quality}.jpg", "").kind == f"JPEG of quality about {quality}"


def test_pictures_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_folder(tmp_path)[0].open().size == (20, 30)


NAMES = [f"scene{i}-0.png" for i in range(10)]


def test_sides_of_one_format_and_size_do_not_differ(tmp_path: Path) -> None:
    real, fake = fill(tmp_path / "real", NAMES), fill(tmp_path / "fake", NAMES)
    assert differences(read_folder(real), read_folder(fake)) == []


def test_another_format_is_a_difference(tmp_path: Path) -> None:
    real = fill(tmp_path / "real", [name.replace("png", "jpg") for name in NAMES], quality=90)
    (found,) = differences(read_folder(real), read_folder(fill(tmp_path / "fake", NAMES)))
    assert found == ("the format differs: real pictures are JPEG of quality about 90 (10); generated ones are PNG (10)")


def test_another_size_is_a_difference(tmp_path: Path) -> None:
    fill(tmp_path / "real", NAMES[:5], size=(60, 40))
    real = fill(tmp_path / "real", NAMES[5:])
    (found,) = differences(read_folder(real), read_folder(fill(tmp_path / "fake", NAMES)))
    assert found.startswith("the size differs: real pictures are 60x40 (5), 40x40 (5);")


def test_one_odd_picture_in_ten_is_no_difference(tmp_path: Path) -> None:
    fill(tmp_path / "real", NAMES[:1], size=(60, 40))
    real = fill(tmp_path / "real", NAMES[1:])
    assert differences(read_folder(real), read_folder(fill(tmp_path / "fake", NAMES))) == []


def test_a_split_never_parts_a_group_and_treats_both_sides_alike(tmp_path: Path) -> None:
    names = [f"scene{i}-{j}.png" for i in range(40) for j in range(2)]
    sides = [split(read_folder(fill(tmp_path / side, names, size=(8, 8))), 0.25, 0) for side in ("real", "fake")]
    for kept, out in sides:
        assert not {picture.group for picture in kept} & {picture.group for picture in out}
        assert len(kept) + len(out) == 80 and 8 <= len(out) <= 32
    assert [p.group for p in sides[0][1]] == [p.group for p in sides[1][1]]
    other = split(read_folder(tmp_path / "real"), 0.25, 1)[1]
    assert [p.group for p in other] != [p.group for p in sides[0][1]]
