"""SARIF: valid by the 2.1.0 schema, a result per row that is not a PASS."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from evidence_fakes import curve_values
from gate_fakes import gate, gates

from nbench.report.sarif import SCHEMA, sarif

VALIDATOR = jsonschema.Draft7Validator(
    json.loads((Path(__file__).parents[1] / "golden/schemas/sarif-schema-2.1.0.json").read_text())
)
NAMES = ("pass", "breach", "inconclusive", "missing", "tiers", "empty")


@pytest.fixture(scope="module")
def logs() -> dict[str, dict[str, Any]]:
    return {name: sarif(result, "gates/release.yaml") for name, result in gates().items()}


def results(log: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = log["runs"][0]["results"]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_it_is_valid_and_plain_json(logs: dict[str, dict[str, Any]], name: str) -> None:
    VALIDATOR.validate(json.loads(json.dumps(logs[name], allow_nan=False)))
    assert logs[name]["$schema"] == SCHEMA and logs[name]["version"] == "2.1.0"


def test_the_schema_refuses_what_is_not_sarif(logs: dict[str, dict[str, Any]]) -> None:
    broken = json.loads(json.dumps(logs["breach"]))
    results(broken)[0]["level"] = "fatal"
    assert not VALIDATOR.is_valid(broken)
    broken = json.loads(json.dumps(logs["breach"]))
    del results(broken)[0]["message"]
    assert not VALIDATOR.is_valid(broken)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("pass", []),
        ("breach", [("gate-breach", "error")]),
        ("inconclusive", [("gate-inconclusive", "error")]),
        ("missing", [("gate-inconclusive", "error")] * 2),
        ("tiers", [("gate-breach", "error")] * 3 + [("gate-breach", "note")] * 3),
        ("empty", [("gate-inconclusive", "error")]),
    ],
)
def test_what_blocks_is_an_error_and_the_rest_a_note(
    logs: dict[str, dict[str, Any]], name: str, wanted: list[tuple[str, str]]
) -> None:
    assert [(one["ruleId"], one["level"]) for one in results(logs[name])] == wanted
    rules = {rule["id"] for rule in logs[name]["runs"][0]["tool"]["driver"]["rules"]}
    assert {rule for rule, _ in wanted} <= rules


def test_a_result_points_at_the_policy_and_is_known_again() -> None:
    one, two = (sarif(gate({"a": curve_values(seed=seed, at={2: -1.0})}), "my gates/über#1.yaml") for seed in (5, 7))
    assert results(one)[0]["message"] != results(two)[0]["message"]
    assert results(one)[0]["partialFingerprints"] == results(two)[0]["partialFingerprints"]
    place = results(one)[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place == "my%20gates/%C3%BCber%231.yaml"


def test_every_row_has_a_fingerprint_of_its_own(logs: dict[str, dict[str, Any]]) -> None:
    prints = [one["partialFingerprints"]["nbenchGate/v1"] for one in results(logs["tiers"])]
    assert len(set(prints)) == len(prints) == 6


def test_braces_of_names_are_no_placeholders() -> None:
    log = sarif(gate({"a": curve_values()}, rules=[{"scorers": ["{0}"], "margin": {"sd": 1}}]), "p.yaml")
    assert "{{0}}" in results(log)[0]["message"]["text"]


def test_the_message_holds_figures_or_the_reason(logs: dict[str, dict[str, Any]]) -> None:
    text = results(logs["breach"])[0]["message"]["text"]
    assert "nft against base: a at 2 steps: BREACH, difference -" in text and "margin" in text
    assert "no scorer of kind judge" in results(logs["missing"])[0]["message"]["text"]
    assert "0 steps" not in results(logs["missing"])[0]["message"]["text"]


def test_no_result_is_lost_for_an_empty_policy(logs: dict[str, dict[str, Any]]) -> None:
    assert "nothing can be passed" in results(logs["empty"])[0]["message"]["text"]
