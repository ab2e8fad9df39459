"""Boards and reports in a real browser: what a reader clicks, works, and nothing leaves the page."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium, opened
from evidence_fakes import curve_values, made_run
from page_fakes import EVIL, board_values, complete, written_run

from nbench.leaderboard.board import build_board
from nbench.leaderboard.build import write_board
from nbench.leaderboard.definition import make_definition
from nbench.report.page_run import run_page, write_report
from nbench.report.page_thumbnails import thumbnail_path
from nbench.runs.cube import make_cube
from nbench.runs.store import Store

pytestmark = pytest.mark.slow

_ROWS = (
    "[...document.querySelectorAll('.view:not([hidden]) tbody tr[data-entry]:not([hidden])')].map(r => r.dataset.entry)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three checkpoints with hostile prompts, as a board and as a report."""
    root = tmp_path_factory.mktemp("pages")
    run = written_run(root / "store", board_values(), texts=[EVIL, EVIL.upper(), EVIL])
    definition = make_definition(
        {"name": "demo", "title": f"Demo {EVIL}", "base": {"run": "made", "checkpoint": "base"}, "steps": [2, 4, 8],
         "gallery": 20, "entries": [
            {"run": "made", "checkpoint": "better", "method": "NFT", "guard": "hinge", "notes": EVIL},
            {"run": "made", "checkpoint": "broken", "method": "GRPO", "trained_on": ["a"]}]}
    )  # fmt: skip
    write_board(build_board(definition, root, Store(root / "store")), root / "board")
    write_report(run, root / "report")
    return root


@pytest.fixture
def board(folder: Path) -> Path:
    return folder / "board" / "index.html"


@pytest.fixture
def report(folder: Path) -> Path:
    return folder / "report" / "index.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 380])
@pytest.mark.parametrize("name", ["board", "report"])
def test_pages_open_quietly_fit_the_screen_and_show_texts_as_texts(
    browser: Any, folder: Path, name: str, scheme: str, width: int
) -> None:
    path = folder / name / "index.html"
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    with opened(browser, path, **options) as seen:
        seen.page.wait_for_selector("td img, #pair img")
        assert seen.value("window.hacked") is None
        assert seen.value("document.documentElement.scrollWidth") <= width
        assert EVIL in seen.text("body")
        dark = seen.value("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
        assert seen.value("document.querySelectorAll('script').length") == 2


def test_light_and_dark_can_be_changed(browser: Any, board: Path) -> None:
    with opened(browser, board) as seen:
        assert seen.text("#theme") == "Dark"
        seen.page.click("#theme")
        assert seen.text("#theme") == "Light"
        assert seen.value("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"


def test_a_board_sorts_by_any_column_and_back(browser: Any, board: Path) -> None:
    with opened(browser, board) as seen:
        assert seen.value(_ROWS) == ["better", "base", "broken"]
        button = seen.page.locator(".view:not([hidden]) button.sort", has_text="worst drop")
        button.click()
        head = seen.page.locator(".view:not([hidden]) th[aria-sort]")
        assert head.count() == 1 and head.get_attribute("aria-sort") == "ascending"
        assert seen.value(_ROWS) == ["better", "base", "broken"]
        button.click()
        assert seen.value(_ROWS) == ["broken", "base", "better"] and head.get_attribute("aria-sort") == "descending"


def test_what_has_no_number_stands_last_whichever_way(browser: Any, board: Path) -> None:
    with opened(browser, board) as seen:
        button = seen.page.locator(".view:not([hidden]) button.sort", has_text="steps to match")
        for _ in range(2):
            button.click()
            assert seen.value(_ROWS)[-1] == "base"


def test_a_board_sorts_from_the_keyboard(browser: Any, board: Path) -> None:
    with opened(browser, board) as seen:
        seen.page.locator(".view:not([hidden]) button.sort", has_text="rank").focus()
        seen.page.keyboard.press("Enter")
        assert seen.value(_ROWS)[0] == "broken"
        seen.page.keyboard.press("Tab")
        assert "group" in seen.value("document.activeElement.textContent")


def test_a_board_filters_rows_curves_and_pictures(browser: Any, board: Path) -> None:
    with opened(browser, board) as seen:
        seen.page.fill("#filter", "hinge nft")
        assert seen.value(_ROWS) == ["better"]
        assert seen.text("#found") == "1 of 3"
        assert (
            seen.value("[...document.querySelectorAll('g.series:not([hidden])')].map(g => g.dataset.entry)")
            == ["better"] * 6
        )
        assert seen.shown("#gallery thead th") == ["prompt", "better"]
        seen.page.fill("#filter", "nothing like it")
        assert not seen.value(_ROWS) and "No checkpoint has these words." in seen.text(".view:not([hidden])")
        seen.page.fill("#filter", "")
        assert len(seen.value(_ROWS)) == 3 and seen.text("#found") == ""


def test_the_legend_hides_a_line_and_leaves_the_row(browser: Any, board: Path) -> None:
    with opened(browser, board) as seen:
        button = seen.page.locator('.legend button[data-toggle="broken"]')
        button.click()
        assert button.get_attribute("aria-pressed") == "false"
        assert seen.value("document.querySelectorAll('g.series[data-entry=broken]:not([hidden])').length") == 0
        assert len(seen.value(_ROWS)) == 3
        button.click()
        assert seen.value("document.querySelectorAll('g.series[data-entry=broken]:not([hidden])').length") > 0


def test_a_board_shows_one_view_or_all(browser: Any, board: Path) -> None:
    with opened(browser, board) as seen:
        assert [text.lower() for text in seen.shown(".view h3")] == ["overall"]
        seen.page.select_option("#view", label="measure: b")
        assert [text.lower() for text in seen.shown(".view h3")] == ["measure: b"]
        seen.page.select_option("#view", value="all")
        assert [text.lower() for text in seen.shown(".view h3")] == ["overall", "measure: a", "measure: b"]


def test_the_gallery_slider_changes_every_picture(browser: Any, board: Path) -> None:
    with opened(browser, board) as seen:
        pictures = json.loads(seen.value("document.getElementById('data').textContent"))["gallery"]
        assert seen.text("#gallery-shown") == "2 steps"
        seen.page.focus("#gallery-steps")
        for step in (1, 2):
            seen.page.keyboard.press("ArrowRight")
            sources = seen.value("[...document.querySelectorAll('#gallery img')].map(i => i.src)")
            assert sources == [row[step] for prompt in pictures for row in prompt]
        assert seen.text("#gallery-shown") == "8 steps"
        seen.wait("document.querySelector('#gallery img').complete")  # a new source is decoded in its own time
        assert seen.value("document.querySelector('#gallery img').naturalWidth") == 24


def test_links_of_a_row_lead_to_what_they_name(browser: Any, board: Path) -> None:
    with opened(browser, board) as seen:
        seen.page.locator('.view:not([hidden]) a[href="#card-better"]').click()
        assert seen.value("document.getElementById('card-better').open") is True
        assert '"better"' in seen.text("#card-better pre")


def test_a_board_can_be_read_without_scripts(browser: Any, board: Path) -> None:
    with opened(browser, board, java_script_enabled=False) as seen:
        assert len(seen.shown(".view tbody th")) == 3 * 3
        assert sum(one.is_visible() for one in seen.page.query_selector_all("svg.chart")) == 2 * 3
        assert not seen.shown(".controls") and len(seen.page.query_selector_all("#gallery img")) == 20 * 3


def _pictures(seen: Any) -> list[str]:
    """Thumbnails in the pair viewer, once they are loaded."""
    seen.value("document.getElementById('pair').scrollIntoView()")
    seen.wait("[...document.querySelectorAll('#pair img')].every(i => i.complete && i.naturalWidth)")
    found: list[str] = seen.value("[...document.querySelectorAll('#pair img')].map(i => i.getAttribute('src'))")
    return found


def test_the_pair_viewer_shows_one_prompt_and_seed_from_all_checkpoints(browser: Any, report: Path) -> None:
    from nbench.runs.store import RunFolder
    from nbench.runs.tables import load_run

    cube = make_cube(load_run(RunFolder(report.parent.parent / "store" / "runs" / "made")))
    with opened(browser, report) as seen:

        def expected(step: int, prompt: int, seed: int) -> list[str]:
            return [thumbnail_path(cube.keys[c, step, prompt, seed]) for c in range(3)]

        assert seen.shown("#pair figcaption") == ["base", "better", "broken"]
        assert _pictures(seen) == expected(0, 0, 0) and seen.text("#prompt-text") == EVIL
        seen.page.focus("#steps")
        seen.page.keyboard.press("End")
        assert _pictures(seen) == expected(2, 0, 0) and seen.text("#steps-shown") == "8 steps"
        seen.page.click("#next")
        seen.page.select_option("#seed", "1")
        assert _pictures(seen) == expected(2, 1, 1)
        seen.page.click("#previous")
        assert seen.page.is_disabled("#previous")
        seen.page.select_option("#prompt", "7")
        assert _pictures(seen) == expected(2, 7, 1)
        assert seen.text("#prompt-text") == "prompt 7"


def test_the_pair_viewer_shows_scores_and_the_difference_from_the_reference(browser: Any, report: Path) -> None:
    from nbench.runs.store import RunFolder
    from nbench.runs.tables import load_run

    cube = make_cube(load_run(RunFolder(report.parent.parent / "store" / "runs" / "made")))
    measure = cube.measure("a")
    assert measure is not None
    base, better = (float(cube.values[measure][c, 0, 0, 0]) for c in (0, 1))
    with opened(browser, report) as seen:
        cells = seen.shown("#pair figure:nth-child(2) tr:first-child td")
        shown = [float(cell.replace("−", "-")) for cell in cells]
        assert shown == pytest.approx([better, better - base], rel=0.01)
        own = seen.value("[...document.querySelectorAll('#pair figure:first-child td')].map(cell => cell.textContent)")
        assert float(own[0].replace("−", "-")) == pytest.approx(base, rel=0.01) and own[1] == ""


def test_prompts_can_be_found_and_ordered_by_what_was_lost(browser: Any, report: Path) -> None:
    from nbench.runs.store import RunFolder
    from nbench.runs.tables import load_run

    cube = make_cube(load_run(RunFolder(report.parent.parent / "store" / "runs" / "made")))
    measure = cube.measure("a")
    assert measure is not None
    values = cube.values[measure]
    lost = np.argsort((values[2, 0] - values[0, 0]).mean(axis=1), kind="stable")
    with opened(browser, report) as seen:
        seen.page.select_option("#order", label="broken: a lost most")
        listed = seen.value("[...document.querySelectorAll('#prompt option')].map(o => Number(o.value))")
        assert listed == lost.tolist()
        assert seen.value("Number(document.getElementById('prompt').value)") == lost[0]
        seen.page.fill("#search", "p007")
        assert seen.text("#prompts-found") == "1 of 20" and seen.text("#prompt-text") == "prompt 7"
        seen.page.fill("#search", "odd")
        assert seen.text("#prompts-found") == "10 of 20"


def test_a_click_on_the_sheet_opens_the_prompt_in_the_viewer(browser: Any, report: Path) -> None:
    with opened(browser, report) as seen:
        seen.page.wait_for_selector("#sheet button.cell")
        assert seen.value("document.querySelectorAll('#sheet button.cell').length") == 20
        seen.page.locator("#sheet button.cell", has_text="p012").click()
        assert seen.text("#prompt-text") == "prompt 12"


def test_a_page_of_5000_pictures_opens_within_three_seconds(browser: Any, tmp_path: Path) -> None:
    from PIL import Image

    from nbench.report.page_thumbnails import LARGE, thumbnail

    steps = (2, 4, 8, 16, 28)
    values = {name: {m: curve_values(prompts=125, seeds=4, seed=i, steps=steps) for i, m in enumerate("abc")}
              for name in ("base", "nft")}  # fmt: skip
    run = complete(made_run(values, steps=steps))
    cube = make_cube(run)
    keys = [str(key) for key in cube.keys.flat]
    assert len(set(keys)) == 5000
    pixels = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    data = thumbnail(Image.fromarray(pixels).resize((LARGE, LARGE)), LARGE)
    for key in keys:
        path = tmp_path / thumbnail_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    page = tmp_path / "index.html"
    page.write_text(run_page(run, cube, {key: thumbnail_path(key) for key in keys}))
    start = time.perf_counter()
    with opened(browser, page) as seen:
        _pictures(seen)
        seen.page.wait_for_selector("#sheet button.cell img")
        seconds = time.perf_counter() - start
        loaded = sum(url.endswith(".webp") for url in seen.requests)
        assert seconds < 3, f"{seconds:.2f} s"
        assert 0 < loaded < 500, "pictures out of sight are left for later"
        at_first = seen.value("document.querySelectorAll('#sheet button.cell').length")
        seen.page.keyboard.press("End")
        seen.wait("document.querySelectorAll('#sheet button.cell').length === 125")
        assert at_first <= 125
        seen.page.focus("#steps")
        seen.page.keyboard.press("End")
        assert seen.text("#steps-shown") == "28 steps" and _pictures(seen)
    print(f"5,000 pictures: {seconds:.2f} s, {loaded} thumbnails loaded, {page.stat().st_size / 1e6:.2f} MB page")
