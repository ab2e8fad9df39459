"""The last stage of a study: claims, tables, figures, boards and page, from what has been measured so far."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from nbench.report.study import write_results
from nbench.runs.files import write_atomic
from nbench.study.board import write_boards
from nbench.study.claims import judge_claims
from nbench.study.claims.claim import Claim
from nbench.study.facts import study_facts
from nbench.study.folder import StudyFolder
from nbench.study.gather import gather
from nbench.study.plan import Plan
from nbench.study.values import parquet, values_table


@dataclass(frozen=True)
class Written:
    """What `write_report` wrote.

    Attributes:
        claims: all of them, in order.
        files: of the results.
        boards: pages.
    """

    claims: tuple[Claim, ...]
    files: tuple[Path, ...]
    boards: tuple[Path, ...]


def write_report(plan: Plan, folder: StudyFolder) -> Written:
    """Write OUT/results/. What was not run is named as missing, and claims that need it cannot be told.

    Raises:
        StoreError: something is damaged, or the disk refuses.
    """
    evidence = gather(plan, folder)
    claims = judge_claims(evidence)
    facts = study_facts(plan, folder)
    content = json.dumps([one.to_json() for one in claims], indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(folder.results / "claims.json", (content + "\n").encode())
    write_atomic(folder.results / "values.parquet", parquet(values_table(evidence)))
    files = write_results(evidence, claims, facts, folder.results, images=folder.store.root)
    boards = write_boards(evidence, folder, folder.results / "boards")
    return Written(claims, tuple(files), tuple(boards))
