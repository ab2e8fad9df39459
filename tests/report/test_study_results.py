"""A study's files: all that there is evidence for, the same bytes each time, and no text that runs."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import re
from pathlib import Path

import pytest
from page_fakes import EVIL
from PIL import Image
from study_page_fakes import fake_claims, fake_evidence, fake_facts

from nbench.report.study import first_picture, write_results
from nbench.report.study_facts import Done, StudyFacts, duration
from nbench.report.study_values import make_views
from nbench.report.study_words import claims_markdown, commands_of
from nbench.runs.images import ImageStore
from nbench.study.evidence import Evidence


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def evidence(root: Path) -> Evidence:
    return fake_evidence(root / "store")


@pytest.fixture(scope="module")
def results(root: Path, evidence: Evidence) -> Path:
    files = write_results(evidence, fake_claims(), fake_facts(), root / "results", images=root / "store")
    assert sorted(files) == sorted(path for path in (root / "results").rglob("*") if path.is_file())
    return root / "results"


@pytest.fixture(scope="module")
def page(results: Path) -> str:
    return (results / "index.html").read_text(encoding="utf-8")


def test_every_table_has_three_writings_with_the_same_rows(results: Path) -> None:
    for name in ("claims", "main", "arms", "trainings", "steps"):
        rows = list(csv.reader((results / f"tables/{name}.csv").open(encoding="utf-8")))
        markdown = (results / f"tables/{name}.md").read_text(encoding="utf-8")
        body = (results / f"tables/{name}.tex").read_text(encoding="utf-8")
        assert len(rows) > 3 and len({len(row) for row in rows}) == 1
        assert sum(line.startswith("|") for line in markdown.splitlines()) == len(rows) + 1
        assert body.count(r" \\") == len(rows)


def test_the_same_evidence_gives_the_same_bytes(root: Path, results: Path, evidence: Evidence) -> None:
    again = root / "again"
    write_results(evidence, fake_claims(), fake_facts(), again, images=root / "store")
    for path in results.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(results)).read_bytes(), path.name


def test_strips_show_the_first_prompts_at_every_step_count(results: Path) -> None:
    with Image.open(results / "pictures/tiny-awm-aesthetic.jpg") as strip:
        assert strip.format == "JPEG" and strip.width > 2 * 3 * 82
        middle = strip.getpixel((12 + 84 + 41, 18 + 16 + 41))
    assert isinstance(middle, tuple) and middle != (255, 255, 255)
    with Image.open(results / "figures/first.png") as first:
        assert first.format == "PNG" and first.height > first.width / 2
    assert (results / "figures/first.svg").read_text().count("<image ") == 2 * 3 * 3  # prompts, arms, step counts


def test_the_page_asks_for_nothing_and_runs_no_text(page: str) -> None:
    assert "<script>window.hacked" not in page and "<img src=x" not in page
    assert page.count("<script") == 2
    assert not re.search(r'(?:src|href)="(?!data:|#|tables/|figures/)', page)
    assert "default-src 'none'; img-src data:;" in html.unescape(page) and " style=" not in page
    assert 'onerror="' not in re.sub(r"&#34;|&quot;", "", page)


def test_the_page_has_an_anchor_for_every_link_of_its_own(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {target for target in re.findall(r'href="#([^"]+)"', page)} <= set(ids)
    assert {"claim-4", "claim-7", "claim-9", "figure-steps", "table-main", "run", "limits"} <= set(ids)


def test_links_to_files_lead_to_files(page: str, results: Path) -> None:
    linked = set(re.findall(r'href="((?:tables|figures)/[^"]+)"', page))
    assert {"tables/steps.csv", "figures/norms.svg"} <= linked
    assert all((results / name).is_file() for name in linked)
    claims = (results / "claims.md").read_text(encoding="utf-8")
    found = re.findall(r"\]\((figures/[^)]+)\)", claims)
    assert found and all((results / name).is_file() for name in found)


def test_the_page_says_how_it_was_run_and_what_is_missing(page: str) -> None:
    for said in ("nbench study fake", "2 CPU cores, no accelerator", "torch 2.9", "2.02 h", "ab" * 32, "nbench train a",
                 "Second paragraph.", "One base.", "Not run, for claim 9: nbench analyze ratios",
                 "Made of arrays: evidence of nothing."):  # fmt: skip
        assert said in page, said


def test_claims_as_markdown_give_verdict_effect_figure_and_command(evidence: Evidence) -> None:
    body = claims_markdown(evidence, fake_claims(), fake_facts(), ("steps", "forest"), root="../study/")
    assert "**Holds.** Quality rose by 0.7 sd." in body and "**Cannot tell.**" in body
    assert r"effect: +0.700\* (+0.500 to +0.900) sd of the base (3 trainings or pairs of them, 12 prompts)" in body
    assert "[steps](../study/figures/steps.svg)" in body and "steps-by-group" not in body
    assert "not run: nbench analyze ratios" in body
    assert "<script" not in re.sub(r"`[^`\n]*`", "", body)  # in a code span it is text
    assert [line for line in body.splitlines() if line.startswith("## ")][-2:] == ["## How it was run", "## Limits"]


def test_a_claim_names_the_commands_that_measured_it() -> None:
    done = (
        Done("train", "t", "nbench train configs/ratios.yaml", 1.0),
        Done("evaluate", "a", "nbench run suites/a.yaml", 1.0),
        Done("evaluate", "b", "nbench run suites/a-trajectory.yaml", 1.0),
        Done("analyze", "c", "nbench analyze ratios x", 1.0),
    )
    facts = StudyFacts(done=done)
    held, _, untold = fake_claims()
    assert commands_of(held, facts) == ["nbench run suites/a.yaml"]
    assert commands_of(dataclasses.replace(held, number=8), facts) == ["nbench run suites/a-trajectory.yaml"]
    assert commands_of(untold, facts) == ["nbench analyze ratios x"]
    assert facts.seconds() == {"train": 1.0, "evaluate": 2.0, "analyze": 1.0}


@pytest.mark.parametrize(("seconds", "said"), [(9.876, "9.88 s"), (600, "10 min"), (7200, "2 h")])
def test_durations_are_told_in_the_unit_that_fits(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_study_that_was_not_run_has_tables_and_a_page_that_says_so(tmp_path: Path, evidence: Evidence) -> None:
    claims = (fake_claims()[2],)
    files = write_results(Evidence(evidence.plan, {}), claims, StudyFacts(), tmp_path / "out", images=tmp_path)
    names = {path.relative_to(tmp_path / "out").as_posix() for path in files}
    assert {"index.html", "claims.md", "tables/main.csv"} <= names
    assert not any(name.startswith(("figures/", "pictures/")) for name in names)
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "0 of 10 trainings, 0 of 12 runs" in page and "cannot tell" in page


def test_without_pictures_the_first_picture_is_charts_alone(root: Path, tmp_path: Path, evidence: Evidence) -> None:
    views = make_views(evidence)
    whole = first_picture(evidence, views, ImageStore(root / "store/images"))
    for store in (None, ImageStore(tmp_path)):
        charts = first_picture(evidence, views, store)
        assert whole is not None and charts is not None
        assert "<image " not in charts.svg() and charts.height < whole.height / 2


def test_a_study_yaml_that_would_end_the_page_stays_inside(page: str) -> None:
    assert json.dumps(EVIL)[1:10] not in page and "&lt;script&gt;window.hacked" in page
