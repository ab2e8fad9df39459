"""JUnit XML: valid by Jenkins' schema, one case per row, whatever names hold."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import xmlschema
from evidence_fakes import curve_values
from gate_fakes import REWARDS, gate, gates

from nbench.report.junit import junit_xml

SCHEMA = xmlschema.XMLSchema(str(Path(__file__).parents[1] / "golden/schemas/junit-10.xsd"))
NAMES = ("pass", "breach", "inconclusive", "missing", "tiers", "empty")


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    return {name: junit_xml(result) for name, result in gates().items()}


@pytest.mark.parametrize("name", NAMES)
def test_it_is_valid(written: dict[str, str], name: str) -> None:
    SCHEMA.validate(written[name])


def test_the_schema_refuses_what_is_not_junit(written: dict[str, str]) -> None:
    assert not SCHEMA.is_valid(written["pass"].replace("<testcase ", "<test ").replace("</testcase>", "</test>"))
    assert not SCHEMA.is_valid(written["pass"].replace(' tests="3"', ""))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("pass", {"tests": 3, "failures": 0, "errors": 0, "skipped": 0}),
        ("breach", {"tests": 3, "failures": 1, "errors": 0, "skipped": 0}),
        ("inconclusive", {"tests": 3, "failures": 0, "errors": 1, "skipped": 0}),
        ("missing", {"tests": 5, "failures": 0, "errors": 2, "skipped": 0}),
        ("tiers", {"tests": 9, "failures": 3, "errors": 0, "skipped": 3}),
        ("empty", {"tests": 1, "failures": 0, "errors": 1, "skipped": 0}),
    ],
)
def test_rows_are_cases_and_what_blocks_fails(written: dict[str, str], name: str, wanted: dict[str, int]) -> None:
    suite = ET.fromstring(written[name]).find("testsuite")
    assert suite is not None
    assert {key: int(suite.attrib[key]) for key in wanted} == wanted
    cases = suite.findall("testcase")
    assert len(cases) == wanted["tests"] and len({case.attrib["name"] for case in cases}) == len(cases)
    for tag, key in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert sum(case.find(tag) is not None for case in cases) == wanted[key]


def test_a_breach_shows_its_figures_and_a_gap_its_reason(written: dict[str, str]) -> None:
    failure = ET.fromstring(written["breach"]).find(".//failure")
    error = ET.fromstring(written["inconclusive"]).find(".//error")
    assert failure is not None and error is not None
    assert failure.attrib["message"].startswith("difference -") and "margin" in failure.attrib["message"]
    assert "98.7% of the pairs have both scores" in error.attrib["message"]


def test_the_properties_say_what_was_compared(written: dict[str, str]) -> None:
    found = {one.attrib["name"]: one.attrib["value"] for one in ET.fromstring(written["pass"]).iter("property")}
    assert (found["verdict"], found["base"], found["candidate"]) == ("PASS", "base", "nft")
    assert len(found["base_card"]) == 64


def test_markup_and_characters_that_xml_cannot_hold_do_no_harm() -> None:
    nasty = '<x a="1">&\x00\x1b]]> \ud800'
    text = junit_xml(
        gate({"a": curve_values()}, rules=[REWARDS, {**REWARDS, "scorers": ["<&'\">"]}], policy={"name": nasty})
    )
    SCHEMA.validate(text)
    suite = ET.fromstring(text.encode()).find("testsuite")
    assert suite is not None and suite.attrib["name"] == 'nbench gate <x a="1">&\ufffd\ufffd]]> \ufffd'
    assert any("<&'\">" in case.attrib["name"] for case in suite.iter("testcase"))
