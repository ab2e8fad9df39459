"""A gate's dossier: everything that the verdict rests on, in one folder, with the hash of every file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from nbench.compare import Side, compare
from nbench.errors import UsageError
from nbench.gates.evaluate import GateResult
from nbench.gates.looks import SequentialResult
from nbench.report.compare import comparison_json, comparison_plot, pair_sheet
from nbench.report.gate import gate_json, step_summary
from nbench.report.gate_html import gate_html
from nbench.report.gate_looks import sequential_json
from nbench.report.junit import junit_xml
from nbench.report.sarif import sarif
from nbench.report.sheet import png_bytes
from nbench.runs.files import TEMPORARY, write_atomic

MANIFEST = "manifest.json"
#: what intervals beside a sequential gate are not
SEQUENTIAL = (
    "A sequential gate: the bounds of the table hold however often one looks. The intervals of comparison.json and of "
    "the curves are for a number of prompts fixed beforehand, and are not evidence for this verdict."
)


def write_dossier(
    result: GateResult,
    base: Side,
    candidate: Side,
    policy_path: str,
    out: Path,
    *,
    looks: SequentialResult | None = None,
) -> list[Path]:
    """Write the result in every format, both cards, the comparison, its curves and its worst pairs; the manifest last.

    Args:
        result: of the gate.
        base: as it was judged.
        candidate: likewise.
        policy_path: how the policy was named, for SARIF's locations.
        out: folder, new or of an earlier dossier, whose files are replaced.
        looks: of a sequential gate.

    Returns:
        The files, the manifest last.

    Raises:
        UsageError: `out` holds something else.
        StoreError: the disk refuses.
    """
    earlier = _earlier(out)
    found = compare(base, candidate, allow=result.policy.allow)
    images = base.run.folder.images, candidate.run.folder.images
    sheet = png_bytes(pair_sheet(found.regressions, images, (base.checkpoint, candidate.checkpoint)))
    curves = comparison_plot(found) if found.curves else ""
    contents = {
        "gate.json": _json(gate_json(result) if looks is None else sequential_json(looks)),
        "gate.sarif": _json(sarif(result, policy_path)),
        "junit.xml": junit_xml(result).encode(),
        "summary.md": step_summary(result).encode(),
        "comparison.json": _json(comparison_json(found)),
        **({"curves.svg": curves.encode()} if curves else {}),
        "worst-pairs.png": sheet,
        "card-base.json": _json(base.run.card),
        "card-candidate.json": _json(candidate.run.card),
    }
    note = SEQUENTIAL if looks is not None else ""
    contents["index.html"] = gate_html(result, curves, sheet, [*contents, MANIFEST], note).encode()
    contents[MANIFEST] = _json({name: hashlib.sha256(data).hexdigest() for name, data in contents.items()})
    for name, data in contents.items():
        write_atomic(out / name, data)
    for name in earlier - contents.keys():
        (out / name).unlink(missing_ok=True)
    return [out / name for name in contents]


def _earlier(out: Path) -> set[str]:
    """Names of the files of an earlier dossier in the folder.

    Raises:
        UsageError: the folder holds something else.
    """
    if not out.is_dir() or not any(out.iterdir()):
        return set()
    try:
        names = set(json.loads((out / MANIFEST).read_bytes()))
    except (OSError, ValueError, TypeError):
        names = set()
    present = {path.name for path in out.iterdir() if not path.name.startswith(TEMPORARY)}
    if not names or present - names - {MANIFEST}:
        raise UsageError(f"{out} holds something else than a dossier: give a new or empty folder.")
    return names & present


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
