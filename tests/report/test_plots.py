"""Line charts: sound XML, everything drawn, nothing unescaped."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from nbench.report.plots import Panel, Series, line_chart

SVG = "{http://www.w3.org/2000/svg}"


def _panel(*series: Series, **options: object) -> Panel:
    return Panel("panel", "t", "q", series, **options)  # type: ignore[arg-type]


def _places(svg: str) -> list[tuple[float, float]]:
    return [
        (float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in ElementTree.fromstring(svg).iter(f"{SVG}circle")
    ]


def test_lines_bands_legend_and_labels_are_drawn() -> None:
    series = Series("nft", [1, 2, 3], [1, 1.1, 1.2], [0.9, 1.0, 1.1], [1.1, 1.2, 1.3])
    root = ElementTree.fromstring(line_chart("title", [_panel(series, level=1.0), _panel(series)]))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"title", "panel", "t", "q", "nft"} <= set(texts) and texts.count("nft") == 1
    assert len(list(root.iter(f"{SVG}polygon"))) == 2 and len(list(root.iter(f"{SVG}circle"))) == 6


def test_names_are_escaped() -> None:
    svg = line_chart("<b>&", [_panel(Series("<script>alert(1)</script>", [1, 2], [1, 2]))])
    assert "<script" not in svg and "<b>" not in svg
    assert "<script>alert(1)</script>" in [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_larger_values_are_higher_and_falling_runs_from_right_to_left() -> None:
    rising = _places(line_chart("t", [_panel(Series("a", [1, 2], [5, 6]))]))
    assert rising[0][0] < rising[1][0] and rising[0][1] > rising[1][1]
    falling = _places(line_chart("t", [_panel(Series("a", [1, 2], [5, 6]), falling=True)]))
    assert falling[0][0] > falling[1][0] and falling[0][1] > falling[1][1]


def test_a_missing_value_breaks_the_line() -> None:
    svg = line_chart("t", [_panel(Series("a", [1, 2, 3, 4, 5], [1, 2, math.nan, 3, 4]))])
    assert len(_places(svg)) == 4 and "nan" not in svg
    (path,) = re.findall(r'<path d="([^"]*)" fill="none" stroke="#0072B2"', svg)
    assert path.count("M") == 2 and path.count("L") == 2


def test_a_log_axis_spaces_powers_evenly() -> None:
    y = [
        place[1]
        for place in _places(line_chart("t", [_panel(Series("a", [1, 2, 3, 4], [1e-6, 1e-4, 1e-2, 0]), log=True)]))
    ]
    assert len(y) == 3 and y[0] - y[1] == pytest.approx(y[1] - y[2], abs=0.11)


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0], [math.nan, math.nan]])
def test_odd_data_still_make_a_chart(values: list[float]) -> None:
    svg = line_chart("t", [_panel(Series("a", range(len(values)), values), level=None)])
    ElementTree.fromstring(svg)
    assert "nan" not in svg and "inf" not in svg
    ElementTree.fromstring(line_chart("t", []))
