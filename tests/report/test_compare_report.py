"""A comparison as tables, JSON, curves and a sheet of pairs."""

import io
import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evidence_fakes import curve_values, made_run, scorer_part
from rich.console import Console

from nbench.compare import Comparison, Side, compare
from nbench.report.compare import (
    comparison_json,
    comparison_plot,
    comparison_tables,
    interval,
    number,
    pair_sheet,
    share,
    steps_text,
)
from nbench.runs.images import ImageStore


def comparison(name: str = "a", *, values: Any = None, **options: Any) -> Comparison:
    parts = options.pop("scorers", None)
    candidate = curve_values(seed=5, at={2: -1.0}) if values is None else values
    run = made_run({"base": {name: curve_values()}, "nft": {name: candidate}}, scorers=parts)
    return compare(Side(run, "base"), Side(run, "nft"), **options)


def shown(found: Comparison) -> str:
    console = Console(width=220, record=True, file=io.StringIO())
    console.print(comparison_tables(found))
    return console.export_text()


def test_every_row_has_its_figures() -> None:
    found = comparison()
    text = shown(found)
    for row in found.rows:
        assert row.difference is not None
        assert f"{row.difference.mean:+.4g}" in text and interval(row.difference.low, row.difference.high) in text


def test_the_arrow_says_which_way_is_better() -> None:
    assert "a ↑" in shown(comparison())
    assert "a ↓" in shown(comparison(scorers={"a": scorer_part("a", orientation="lower")}))


def test_a_measure_without_pairs_has_dashes() -> None:
    text = shown(comparison(values=np.full((3, 40, 2), np.nan)))
    assert "0 %" in text and "nan" not in text


def test_prompts_and_scorers_are_shown_as_they_are() -> None:
    name = "[red]x[/red]"
    found = comparison(name)
    moved = [type(one)(**{**vars(one), "text": "<script>[bold]p[/]"}) for one in found.worsened]
    text = shown(type(found)(**{**vars(found), "worsened": tuple(moved)}))
    assert "[red]x[/red] ↑" in text and "<script>[bold]p[/]" in text


def test_the_json_is_json_without_numbers_that_are_none() -> None:
    told = json.loads(json.dumps(comparison_json(comparison(trained_on=["a"])), allow_nan=False))
    assert told["rows"][0]["difference"]["mean"] < 0 and told["hacking"]["verdict"] == "no gain"
    empty = json.loads(json.dumps(comparison_json(comparison(values=np.full((3, 40, 2), np.nan))), allow_nan=False))
    assert empty["rows"][0]["base"] is None


def test_the_plot_is_xml_and_escapes_names() -> None:
    svg = comparison_plot(comparison("<a & b>"))
    assert ET.fromstring(svg).tag.endswith("svg") and "&lt;a &amp; b&gt;" in svg


def test_curves_of_what_is_better_when_lower_are_drawn_in_its_own_direction() -> None:
    def heights(orientation: str) -> list[list[float]]:
        svg = comparison_plot(
            comparison(values=curve_values(), scorers={"a": scorer_part("a", orientation=orientation)})
        )
        circles = [one for one in ET.fromstring(svg).iter() if one.tag.endswith("circle")]
        return [[float(one.attrib["cx"]), float(one.attrib["cy"])] for one in circles]

    assert heights("lower") == heights("higher")


def test_a_comparison_without_curves_has_a_plot_all_the_same() -> None:
    assert ET.fromstring(comparison_plot(comparison(values=np.full((3, 40, 2), np.nan)))).tag.endswith("svg")


def test_the_sheet_has_a_row_for_each_pair_even_where_pictures_are_gone(tmp_path: Path) -> None:
    found = comparison()
    assert len(found.regressions) > 3
    images = ImageStore(tmp_path), ImageStore(tmp_path)
    sheet = pair_sheet(found.regressions, images, ("base", "nft"))
    one = pair_sheet(found.regressions[:1], images, ("base", "nft"))
    assert sheet.height - one.height == (len(found.regressions) - 1) * 166
    assert pair_sheet([], images, ("base", "nft")).height == one.height


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (number(math.nan), "-"),
        (number(0.123456), "0.1235"),
        (interval(-1, 2), "-1 to +2"),
        (interval(math.nan, 2), "-"),
        (steps_text(math.inf), "never"),
        (steps_text(math.nan), "-"),
        (share(1.0), "100 %"),
        (share(0.99999), "99.9 %"),
    ],
)
def test_numbers_are_written_so(text: str, wanted: str) -> None:
    assert text == wanted
