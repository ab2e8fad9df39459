"""A study's figures: sound drawings that show what was planted, in SVG and PNG alike."""

from __future__ import annotations

import dataclasses
import io
import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from page_fakes import EVIL
from PIL import Image
from study_page_fakes import STEPS, fake_claims, fake_evidence

from nbench.report.page_charts import COLOURS, Line
from nbench.report.study_drawing import INKS, Drawing
from nbench.report.study_figures import arm_colours, study_figures
from nbench.report.study_forest import draw_forest
from nbench.report.study_panels import Figure, Panel
from nbench.report.study_series import series_panels
from nbench.study.evidence import Evidence

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return fake_evidence(tmp_path_factory.mktemp("study"), pictures=False)


@pytest.fixture(scope="module")
def figures(evidence: Evidence) -> dict[str, Figure]:
    return study_figures(evidence)


def _texts(svg: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def _colour(name: str) -> tuple[int, int, int]:
    return tuple(int(INKS[name][i : i + 2], 16) for i in (1, 3, 5))  # type: ignore[return-value]


def test_all_figures_are_there_and_are_sound_svg(figures: dict[str, Figure]) -> None:
    assert list(figures) == ["steps", "steps-by-group", "norms", "frontier", "training", "ratios"]
    for figure in figures.values():
        svg = figure.draw().svg()
        ElementTree.fromstring(svg)
        assert "nan" not in svg and "inf" not in svg
        assert {figure.title, *(panel.title for panel in figure.panels)} <= set(_texts(svg))


def test_scores_stand_over_log2_of_the_steps_with_bands_around_arms_alone(figures: dict[str, Figure]) -> None:
    quality, _, norm = figures["steps"].panels
    base, unguarded, guarded = quality.lines
    assert list(base.x) == [math.log2(count) for count in STEPS] and base.low is None
    assert [text for _, text in quality.ticks()] == ["2", "4", "8"]
    for line in (unguarded, guarded):
        assert line.low is not None and line.high is not None
        assert all(low < y < high for low, y, high in zip(line.low, line.y, line.high, strict=True))
    # Planted: far below the base unguarded, near it guarded, and the gap is widest at the fewest steps.
    assert unguarded.high is not None and all(high < y for high, y in zip(unguarded.high, base.y, strict=True))
    assert base.y[0] - unguarded.y[0] > base.y[-1] - unguarded.y[-1] > base.y[-1] - guarded.y[-1]
    assert [line.name for line in norm.lines] == ["unguarded", "normguard"] and norm.level == 1


def test_a_measure_that_was_trained_is_no_held_out_quality(evidence: Evidence) -> None:
    study = evidence.plan.study
    claims = study.claims.model_copy(update={"quality": "pocket-aesthetic"})
    plan = dataclasses.replace(evidence.plan, study=study.model_copy(update={"claims": claims}))
    quality, realism, _ = study_figures(dataclasses.replace(evidence, plan=plan))["steps"].panels
    assert quality.empty and not realism.empty


def test_paths_begin_at_the_base_and_go_through_every_epoch(figures: dict[str, Figure]) -> None:
    quality = figures["frontier"].rows[0][0]
    unguarded, guarded = quality.lines
    assert len(unguarded.x) == 1 + 20 // 5 and (unguarded.x[0], unguarded.y[0]) == (guarded.x[0], guarded.y[0])
    assert unguarded.x[-1] > unguarded.x[0] and unguarded.y[-1] < unguarded.y[0]
    assert unguarded.y[-1] < guarded.y[-1]


def test_training_curves_are_means_over_seeds(figures: dict[str, Figure]) -> None:
    reward, norm = figures["training"].rows[0]
    assert reward.lines[0].y[0] == pytest.approx(5 + 0.02 / 2) and list(reward.lines[0].x)[-1] == 20
    assert norm.lines[0].y[-1] == pytest.approx(1 + 0.09 * 19 / 20)


def test_ratios_fall_below_1_and_normalising_evens_their_spread(figures: dict[str, Figure]) -> None:
    mean, balance, spread = figures["ratios"].panels
    assert all(value < 0 for value in mean.lines[0].y) and "1e-4" in mean.y_label
    plain, normalised = spread.lines
    assert max(plain.y) > 2 > max(normalised.y) and min(plain.y) == 1
    assert abs(sum(balance.lines[1].y)) < abs(sum(balance.lines[0].y))


def test_an_arm_has_one_colour_everywhere(figures: dict[str, Figure], evidence: Evidence) -> None:
    colours = arm_colours(evidence)
    assert len(set(colours.values())) == len(colours)
    for name in ("steps", "steps-by-group", "frontier", "training"):
        assert set(figures[name].legend()) <= set(colours.items())


def test_without_evidence_there_is_no_figure(evidence: Evidence) -> None:
    assert study_figures(Evidence(evidence.plan, {})) == {}


def test_a_missing_point_breaks_its_line_and_an_empty_panel_says_so() -> None:
    line = Line("a", 1, [1, 2, 3, 4, 5], [1, 2, math.nan, 2, 1], [0, 1, math.nan, 1, 0], [2, 3, math.nan, 3, 2])
    figure = Figure("f", "F", "", ((Panel("p", "x", "y", (line,)), Panel("q", "x", "y", ())),))
    svg = figure.draw().svg()
    assert svg.count(f'stroke="{INKS["c1"]}"') == 3  # two pieces, and the legend's
    assert "nan" not in svg and _texts(svg).count("not measured") == 1
    assert len(figure.charts()[0][1]) == 1


def test_hostile_names_are_escaped_in_svg() -> None:
    panel = Panel(EVIL, EVIL, EVIL, (Line(EVIL, 1, [1, 2], [1, 2]),), ((1, EVIL),))
    svg = Figure("f", EVIL, "", ((panel,),), (EVIL,)).draw().svg()
    assert "<script" not in svg and "<img" not in svg and _texts(svg).count(EVIL) == 7


def test_png_shows_what_svg_shows() -> None:
    made = Drawing(40, 30, "t")
    made.box(0, 0, 10, 10, "c1")
    made.dot(25, 10, 4, "c2")
    made.line([(0, 25), (40, 25)], "c3", width=4)
    made.polygon([(12, 0), (18, 0), (18, 8), (12, 8)], "c1", opacity=0.5)
    made.picture(30, 0, Image.new("RGB", (8, 8), (255, 0, 0)))
    with Image.open(io.BytesIO(made.png())) as picture:
        assert picture.size == (80, 60)
        places = {(10, 10): _colour("c1"), (50, 20): _colour("c2"), (40, 50): _colour("c3"), (68, 8): (255, 0, 0)}
        for place, colour in places.items():
            assert picture.getpixel(place) == colour
        blend = picture.getpixel((30, 6))
        assert all(abs(part - (255 + own) / 2) <= 2 for part, own in zip(blend, _colour("c1"), strict=True))  # type: ignore[arg-type]
        assert picture.getpixel((30, 40)) == (255, 255, 255)
    root = ElementTree.fromstring(made.svg())
    assert len(list(root.iter(f"{SVG}polygon"))) == 2 and len(list(root.iter(f"{SVG}image"))) == 1


def test_a_dashed_line_of_a_png_has_gaps() -> None:
    made = Drawing(60, 10)
    made.line([(0, 5), (30, 5), (60, 5)], "ink", width=4, dashed=True)
    row = made.image(1).convert("L")
    dark = [row.getpixel((x, 5)) < 128 for x in range(60)]  # type: ignore[operator]
    assert 0.5 < sum(dark) / 60 < 0.75  # five of every eight
    assert sum(a != b for a, b in pairwise(dark)) >= 12


def test_text_of_a_png_reads_upwards_where_it_is_turned() -> None:
    made = Drawing(60, 60)
    made.text(30, 30, "iiiiiiii", ink="ink", anchor="middle", turned=True)
    box = Image.eval(made.image(1).convert("L"), lambda value: 255 - value).getbbox()
    assert box is not None and box[3] - box[1] > 2 * (box[2] - box[0])
    assert abs((box[1] + box[3]) / 2 - 30) <= 3


def test_the_forest_has_a_line_per_part_and_a_scale_per_unit() -> None:
    claims = fake_claims()
    svg = draw_forest(claims).svg()
    texts = _texts(svg)
    assert "tiny-nft-aesthetic s0" in texts and texts.count("all") == 2 and "<script" not in svg
    assert "+0.700* (+0.500 to +0.900)" in texts
    assert not any(text.startswith("9 ") for text in texts)  # nothing was measured
    part = dataclasses.replace(claims[0].parts[0], effect=dataclasses.replace(claims[0].effect, unit="%"))  # type: ignore[type-var]
    mixed = dataclasses.replace(claims[0], parts=(part, claims[0].parts[1]))
    assert {"%", "sd of the base"} <= set(_texts(draw_forest([mixed]).svg()))
    ElementTree.fromstring(draw_forest([]).svg())


def test_series_of_a_claim_become_panels() -> None:
    arms = {"base": 0, "unguarded": 2, "normguard": 1}
    columns = {"steps": [2.0, 8.0], "mean": [1.0, None], "low": [0.0, None], "high": [2.0, None]}
    path = {"epoch": [0.0, 5.0], "reward": [1.0, 2.0], "outcome": [0.0, -1.0]}
    made = series_panels(
        {"guarded - base": columns, "unguarded - base": columns, "guarded - unguarded": columns,
         "cell s0 unguarded": path, "cell s0 normguard": path, "alone": {"steps": [2.0]}},
        arms, "sd",
    )  # fmt: skip
    steps, cell = made
    assert [line.colour for line in steps.lines][:2] == [1, 2] and steps.lines[2].colour not in (0, 1, 2)
    assert list(steps.lines[0].x) == [1, 3] and math.isnan(steps.lines[0].y[1]) and steps.y_label == "sd"
    assert cell.title == "cell s0" and [line.name for line in cell.lines] == ["unguarded", "normguard"]
    assert (cell.x_label, cell.y_label, list(cell.lines[0].x)) == ("reward", "outcome", [1, 2])
    assert all(line.colour < 2 * COLOURS for panel in made for line in panel.lines)
