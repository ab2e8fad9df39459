"""A gate's result as SARIF 2.1.0, so that code-scanning pages show breaches beside the code."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import quote

import nbench
from nbench.gates.evaluate import GateResult, GateRow
from nbench.report.compare import number
from nbench.report.gate import sentence

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_RULES = {
    "gate-breach": "A drop beyond the policy's margin is shown.",
    "gate-inconclusive": "A drop beyond the policy's margin is neither shown nor excluded.",
}


def sarif(result: GateResult, policy_path: str) -> dict[str, Any]:
    """The SARIF log: a result per row that is not a PASS, and one for a policy that decided nothing.

    Args:
        result: of the gate.
        policy_path: relative path of the policy file, which results point to.
    """
    found = [_result(result, row, policy_path) for row in result.rows if row.verdict != "PASS"]
    if result.reason:
        found.append(_entry("gate-inconclusive", "error", sentence(result), policy_path, result.policy.name))
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "nbench",
                        "version": nbench.__version__,
                        "rules": [{"id": name, "shortDescription": {"text": text}} for name, text in _RULES.items()],
                    }
                },
                "properties": {
                    "verdict": result.verdict,
                    "base": result.base,
                    "candidate": result.candidate,
                    "cards": list(result.cards),
                },
                "results": found,
            }
        ],
    }


def _result(result: GateResult, row: GateRow, policy_path: str) -> dict[str, Any]:
    rule = "gate-breach" if row.verdict == "BREACH" else "gate-inconclusive"
    text = f"{result.candidate} against {result.base}: {row.place}: {row.verdict}"
    if row.row is not None and row.row.difference is not None:
        difference = row.row.difference
        bounds = f"{number(difference.lower)} to {number(row.upper)}"
        text += f", difference {difference.mean:+.4g} (bounds {bounds}), margin {number(row.margin)}"
    text += f"; {row.reason}." if row.reason else "."
    return _entry(rule, "error" if row.blocks else "note", text, policy_path, f"{result.policy.name}/{row.place}")


def _entry(rule: str, level: str, text: str, policy_path: str, identity: str) -> dict[str, Any]:
    uri = quote(policy_path)
    return {
        "ruleId": rule,
        "level": level,
        "message": {"text": text.replace("{", "{{").replace("}", "}}")},  # single ones are placeholders
        "locations": [
            {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}},
        ],
        "partialFingerprints": {"nbenchGate/v1": hashlib.sha256(identity.encode()).hexdigest()},
    }
