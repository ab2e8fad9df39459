"""A gate's result as JUnit XML: one test case per row, so that any CI shows it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from nbench.gates.evaluate import GateResult, GateRow
from nbench.report.gate import row_cells, sentence

#: what XML 1.0 cannot hold, not even escaped
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(result: GateResult) -> str:
    """A test suite: PASS is a passed case, BREACH a failure, INCONCLUSIVE an error; rows that do not block are skipped.

    A gate that is inconclusive without any row has one case that says so.
    """
    cases = [_case(result, row) for row in result.rows]
    if not cases or (result.verdict == "INCONCLUSIVE" and result.reason):
        case = ET.Element("testcase", classname=f"nbench.{result.policy.name}", name="policy", time="0")
        ET.SubElement(case, "error", type="INCONCLUSIVE", message=result.reason or sentence(result))
        cases.append(case)
    suite = ET.Element(
        "testsuite",
        name=f"nbench gate {result.policy.name}",
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors=str(sum(case.find("error") is not None for case in cases)),
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
        time="0",
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in (
        ("verdict", result.verdict),
        ("base", result.base),
        ("candidate", result.candidate),
        ("base_card", result.cards[0]),
        ("candidate_card", result.cards[1]),
    ):
        ET.SubElement(properties, "property", name=name, value=value)
    suite.extend(cases)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    for element in root.iter():
        for name, value in element.items():
            element.set(name, _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", value))
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(result: GateResult, row: GateRow) -> ET.Element:
    case = ET.Element("testcase", classname=f"nbench.{result.policy.name}.{row.tier}", name=row.place, time="0")
    message = row.reason or " ".join(
        f"{label} {cell}"
        for label, cell in zip(("difference", "lower", "upper", "margin"), row_cells(row)[3:7], strict=True)
    )
    if row.verdict == "PASS":
        return case
    if not row.blocks:
        ET.SubElement(case, "skipped", message=f"{row.verdict}, does not block ({row.tier}): {message}")
    elif row.verdict == "BREACH":
        ET.SubElement(case, "failure", type="BREACH", message=message)
    else:
        ET.SubElement(case, "error", type="INCONCLUSIVE", message=message)
    return case
