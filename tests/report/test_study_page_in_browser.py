"""A study's page in a real browser: it fits, it is quiet, and what folds unfolds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, opened
from page_fakes import EVIL
from study_page_fakes import fake_claims, fake_evidence, fake_facts

from nbench.report.study import write_results

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    evidence = fake_evidence(root / "store")
    write_results(evidence, fake_claims(), fake_facts(), root / "results", images=root / "store")
    return root / "results" / "index.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 380])
def test_the_page_opens_quietly_and_fits_the_screen(browser: Any, page: Path, width: int, scheme: str) -> None:
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    with opened(browser, page, **options) as seen:
        assert seen.value("window.hacked") is None
        assert EVIL in seen.text("h1")
        assert seen.value("document.documentElement.scrollWidth") <= width
        assert seen.value("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
        dark = seen.value("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")


def test_a_table_sorts_by_what_its_numbers_are(browser: Any, page: Path) -> None:
    with opened(browser, page) as seen:
        heads = "#claim-4 table th button"
        seen.page.click(f"{heads} >> nth=2")
        first = "document.querySelector('#claim-4 table tbody th').textContent"
        assert seen.value(first) == "tiny-nft-aesthetic s0"
        seen.page.click(f"{heads} >> nth=2")
        assert seen.value(first).startswith("tiny-awm-aesthetic")


def test_groups_unfold(browser: Any, page: Path) -> None:
    with opened(browser, page) as seen:
        charts = "section[aria-labelledby=figure-steps-by-group] svg.chart"
        before = len([one for one in seen.page.query_selector_all(charts) if one.is_visible()])
        seen.page.click("section[aria-labelledby=figure-steps-by-group] summary >> nth=1")
        after = len([one for one in seen.page.query_selector_all(charts) if one.is_visible()])
        assert (before, after) == (4, 8)
