"""A gate's dossier: everything that the verdict rests on, in one folder, with the hash of every file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from nbench.compare import Side, compare
from nbench.errors import UsageError
from nbench.gates.evaluate import GateResult
from nbench.report.compare import comparison_json, comparison_plot, pair_sheet
from nbench.report.gate import gate_json, step_summary
from nbench.report.junit import junit_xml
from nbench.report.sarif import sarif
from nbench.report.sheet import png_bytes
from nbench.runs.files import write_atomic

MANIFEST = "manifest.json"


def write_dossier(result: GateResult, base: Side, candidate: Side, policy_path: str, out: Path) -> list[Path]:
    """Write the result in every format, both cards, the comparison, its curves and its worst pairs; the manifest last.

    Args:
        result: of the gate.
        base: as it was judged.
        candidate: likewise.
        policy_path: how the policy was named, for SARIF's locations.
        out: folder, new or of an earlier dossier.

    Returns:
        The files, the manifest last.

    Raises:
        UsageError: `out` holds something else.
        StoreError: the disk refuses.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise UsageError(f"{out} holds something else than a dossier: give a new or empty folder.")
    found = compare(base, candidate, allow=result.policy.allow)
    images = base.run.folder.images, candidate.run.folder.images
    sheet = pair_sheet(found.regressions, images, (base.checkpoint, candidate.checkpoint))
    contents = {
        "gate.json": _json(gate_json(result)),
        "gate.sarif": _json(sarif(result, policy_path)),
        "junit.xml": junit_xml(result).encode(),
        "summary.md": step_summary(result).encode(),
        "comparison.json": _json(comparison_json(found)),
        "curves.svg": comparison_plot(found).encode(),
        "worst-pairs.png": png_bytes(sheet),
        "card-base.json": _json(base.run.card),
        "card-candidate.json": _json(candidate.run.card),
    }
    contents[MANIFEST] = _json({name: hashlib.sha256(data).hexdigest() for name, data in contents.items()})
    for name, data in contents.items():
        write_atomic(out / name, data)
    return [out / name for name in contents]


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
