"""Numbers, charts and thumbnails of pages."""

import io
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from nbench.report import page_format as text
from nbench.report.page_charts import COLOURS, Line, bar, chart, reach_of
from nbench.report.page_thumbnails import data_uri, redrawn, thumbnail, thumbnail_path


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.12345, "0.123"),
        (-1234.5, "−1234"),
        (0, "0"),
        (1e-9, "1.00e−09"),
        (math.nan, "–"),
        (None, "–"),
        (99.99, "100.0"),
    ],
)
def test_numbers_have_three_digits(value: float | None, told: str) -> None:
    assert text.number(value) == told


def test_signs_are_as_wide_as_each_other_and_nothing_is_minus_zero() -> None:
    assert text.signed(0.5, 2) == "+0.50" and text.signed(-0.5, 2) == "−0.50" and text.signed(-0.001, 2) == "0.00"


def test_steps_that_are_never_enough_are_called_never() -> None:
    assert (text.steps(math.inf), text.steps(7.123), text.steps(math.nan)) == ("never", "7.12", "–")
    assert text.interval(7.0, math.inf, 1) == "+7.0 to ∞"


def draw(*lines: Line) -> str:
    return str(chart("t<b>", lines, x_label="x & y", y_label='"', x_ticks=[(0, "a"), (1, "<i>")], level=0.0))


def test_a_chart_is_well_formed_and_escapes_every_text() -> None:
    found = draw(Line('n"><script>', 0, [0, 1], [1.0, 2.0], [0.5, 1.5], [1.5, 2.5]))
    root = ElementTree.fromstring(found)
    assert root.attrib["aria-label"] == "t<b>" and "<script" not in found
    assert [one.text for one in root.iter("title")] == [
        'n"><script>: 1.000 (0.5000 to 1.500)',
        'n"><script>: 2.000 (1.500 to 2.500)',
    ]


def test_a_chart_has_no_colours_of_its_own() -> None:
    found = draw(Line("a", 0, [0, 1], [1.0, 2.0]), Line("b", COLOURS + 1, [0, 1], [1.0, 2.0]))
    assert not re.search(r"#[0-9a-fA-F]{3}|style=|fill=|stroke=", found)
    assert 'class="series c0"' in found and 'class="series c1 again"' in found


def test_a_line_breaks_where_there_is_no_number() -> None:
    found = draw(Line("a", 0, [0, 0.3, 0.6, 1], [1.0, math.nan, 2.0, 3.0]))
    path = re.search(r'class="line" d="([^"]+)"', found)
    assert path is not None and path[1].count("M") == 2
    assert "nan" not in found


def test_an_empty_chart_and_a_flat_one_are_drawn() -> None:
    assert ElementTree.fromstring(draw()) is not None
    assert "nan" not in draw(Line("a", 0, [0, 1], [2.0, 2.0]))


def test_a_bar_says_by_its_class_whether_the_interval_leaves_zero_out() -> None:
    reach = reach_of([-1, 2])
    assert 'class="bar up"' in bar(1, 0.5, 2, reach) and 'class="bar down"' in bar(-1, -2, -0.5, reach)
    assert 'class="bar open"' in bar(0.1, -1, 1, reach) and bar(math.nan, 0, 1, reach) == ""
    assert "whisker" not in bar(1, math.nan, math.nan, reach)


def test_thumbnails_are_small_and_carry_nothing_but_pixels() -> None:
    picture = Image.new("RGB", (1000, 500), (200, 30, 30))
    picture.info["exif"] = b"secret"
    with Image.open(io.BytesIO(thumbnail(picture))) as found:
        assert found.size == (192, 96) and found.format == "WEBP" and not found.info.get("exif")
    tiny = Image.effect_noise((32, 32), 50).convert("RGB")
    with Image.open(io.BytesIO(thumbnail(tiny))) as found:
        assert found.convert("RGB").tobytes() == tiny.tobytes()
    assert data_uri(b"x") == "data:image/webp;base64,eA=="


def test_a_strangers_picture_is_drawn_anew_or_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (400, 400)).save(buffer, "WEBP", exif=b"Exif\0\0secret", xmp=b"<script>")
    assert b"secret" in buffer.getvalue()
    found = redrawn(buffer.getvalue())
    assert found is not None and b"secret" not in found and b"<script>" not in found
    png = io.BytesIO()
    Image.new("RGB", (4, 4)).save(png, "PNG")
    assert redrawn(png.getvalue()) is None and redrawn(b"RIFF....WEBPjunk") is None and redrawn(b"") is None


def test_a_thumbnails_path_is_never_made_from_a_text() -> None:
    assert thumbnail_path("ab" * 32) == f"pictures/ab/{'ab' * 10}.webp"
    assert re.fullmatch(r"pictures/[0-9a-f]{2}/[0-9a-f]{20}\.webp", thumbnail_path("../../../etc/passwd"))
