"""The page of a run: its words follow its numbers, and no shape of a run breaks it."""

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evidence_fakes import curve_values, made_run, scorer_part
from page_fakes import EVIL, board_values, complete, written_run

from nbench.report.page_run import run_page, write_report
from nbench.runs.cube import make_cube
from nbench.runs.tables import RunTables


def page(run: RunTables) -> str:
    return html.unescape(run_page(run, make_cube(run), {}))


def made(values: dict[str, Any], **options: Any) -> RunTables:
    return complete(made_run(values, **options))


def words(text: str) -> str:
    return text.split('id="words"', 1)[1].split('id="scores"', 1)[0]


def data(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])  # type: ignore[index]
    return found


def test_words_say_what_was_made_and_what_moved() -> None:
    found = words(page(made(board_values())))
    assert "360 pictures: 3 checkpoints at 3 step counts on 20 prompts with 2 seeds each." in found
    better, broken = found.split("broken against base")
    assert "better against base, measures at 2 steps 2 better, 0 worse, 0 not told apart; at 8 steps 2 bet" in better
    assert re.search(r"At 2 steps: better on a \(\+0\.\d+, 95 % \+0\.\d+ to \+0\.\d+\); b ", better)
    assert re.search(r"To score as base does at 8 steps it takes \d\.\d+ steps on a \(", better)
    assert re.search(r"At 2 steps: worse on a \(−\d", broken)
    assert re.search(r"At 8 steps: not told apart on a \(.*?; sees drops of 0\.\d+\)", broken)
    assert "Its velocity norm is 1.000 times at 2 steps, 1.000 times at 8 steps that of base." in broken


def test_what_is_never_reached_is_said_so() -> None:
    values = {"base": {"a": curve_values(seed=1)}, "down": {"a": curve_values(seed=2, shift=-1.0)}}
    assert "At no step count does it score as base does at 8 steps on a." in words(page(made(values)))


def test_words_never_say_better_of_a_measure_without_a_better_side() -> None:
    values = {name: {"plain": own["a"]} for name, own in board_values().items()}
    told = words(page(made(values, scorers={"plain": scorer_part("plain", kind="statistics", orientation="none")})))
    assert "360 pictures" in told and "plain" not in told


def test_lower_is_better_turns_the_words_and_not_the_means() -> None:
    values = {"base": {"a": curve_values(seed=1)}, "up": {"a": curve_values(seed=2, shift=1.0)}}
    text = page(made(values, scorers={"a": scorer_part("a", orientation="lower")}))
    assert "At 2 steps: worse on a (−" in words(text)
    assert "lower is better" in text


def test_checkpoints_whose_cards_differ_are_shown_and_not_compared() -> None:
    text = page(made(board_values(), checkpoints={"better": {"guidance": 1.0}}))
    told = words(text)
    assert "better is not compared with base: the two are not comparable" in told and "guidance: 5.0 -> 1.0" in told
    assert "broken against base, measures" in told and "better against base" not in told


def test_failures_are_told_and_are_null_in_the_viewer() -> None:
    values = board_values()
    values["better"]["a"][0, 0, 1] = np.nan
    text = page(made(values))
    assert "no a score: told to fail" in text and "of 97.5 %" in text
    assert "Not every picture has a value of a ↑" in words(text)
    viewer = data(text)
    assert viewer["measures"][0]["values"][1][0][0][1] is None
    assert "NaN" not in json.dumps(viewer)


def test_the_viewer_has_every_value_and_the_set_level_ones_once_per_prompt() -> None:
    values = {name: {**own, "d": own["a"][:, :, :1]} for name, own in board_values().items()}
    run = made(values, scorers={"d": scorer_part("d", kind="diversity")})
    viewer = data(page(run))
    assert [one["name"] for one in viewer["measures"]] == ["a", "b", "d"]
    for one, seeds in zip(viewer["measures"], (2, 2, 1), strict=True):
        assert np.array(one["values"]).shape == (3, 3, 20, seeds)
    assert viewer["measures"][0]["values"][2][1][5][1] == pytest.approx(values["broken"]["a"][1, 5, 1], rel=1e-3)


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ({"only": {"a": curve_values()}}, (2, 4, 8)),
        ({"base": {"a": curve_values(steps=(4,))}, "x": {"a": curve_values(steps=(4,), seed=1)}}, (4,)),
        ({"base": {"a": curve_values(prompts=1)}, "x": {"a": curve_values(prompts=1, seed=1)}}, (2, 4, 8)),
        ({"base": {"a": np.full((3, 5, 1), np.nan)}, "x": {"a": np.full((3, 5, 1), np.nan)}}, (2, 4, 8)),
        ({"base": {"a": np.ones((3, 5, 1))}, "x": {"a": np.ones((3, 5, 1))}}, (2, 4, 8)),
    ],
    ids=["one checkpoint", "one step count", "one prompt", "no value", "no spread"],
)
def test_no_shape_of_a_run_breaks_the_page(values: dict[str, Any], steps: tuple[int, ...]) -> None:
    text = page(made(values, steps=steps))
    assert "pictures: " in words(text) and text.count("<svg") >= 1
    assert not re.search(r"\bnan\b|\binf\b", re.sub(r"<script.*?</script>", "", text, flags=re.S))


def test_prompts_are_text_and_cannot_end_the_data(tmp_path: Path) -> None:
    run = written_run(tmp_path / "store", board_values(), texts=[EVIL, "</script><b>x</b>"])
    raw = run_page(run, make_cube(run), {})
    assert len(re.findall(r"<script", raw)) == len(re.findall(r"</script", raw)) == 2
    assert data(raw)["prompts"][1]["text"] == "</script><b>x</b>"


def test_a_report_has_a_thumbnail_for_each_picture_and_makes_it_once(tmp_path: Path) -> None:
    from PIL import Image

    run = written_run(tmp_path / "store", board_values(prompts=3), side=500)
    missing = next(iter(run.folder.images.folder.glob("*/*.png")))
    missing.unlink()
    path = write_report(run, tmp_path / "out")
    made_ones = sorted((tmp_path / "out" / "pictures").glob("*/*.webp"))
    assert len(made_ones) == 3 * 3 * 3 * 2 - 1
    with Image.open(made_ones[0]) as picture:
        assert picture.size == (384, 384)
    before = {one: one.stat().st_mtime_ns for one in made_ones}
    text = path.read_text()
    names = [name for c in data(text)["pictures"] for s in c for p in s for name in p]
    assert sorted(filter(None, names)) == [one.stem for one in made_ones] and names.count("") == 1
    assert write_report(run, tmp_path / "out").read_text() == text
    assert {one: one.stat().st_mtime_ns for one in made_ones} == before
