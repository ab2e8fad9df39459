"""The leaderboard of a study: every base with its finished checkpoints, from the study's own runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbench.leaderboard.board import build_board
from nbench.leaderboard.build import write_board
from nbench.leaderboard.definition import make_definition
from nbench.study.evidence import Evidence
from nbench.study.folder import StudyFolder
from nbench.study.plan import BASE, Group

_MOST_LABEL = 300  # characters that a board's label may have


def write_boards(evidence: Evidence, folder: StudyFolder, out: Path) -> list[Path]:
    """Write OUT/BASE/ for every base of which a run is finished.

    Returns:
        The boards' pages.

    Raises:
        UsageError: a run lacks what a board needs, such as a step count.
        StoreError: the disk refuses.
    """
    pages = []
    for base in dict.fromkeys(group.base for group in evidence.plan.groups):
        groups = [one for one in evidence.plan.groups if one.base == base and evidence.run(one, "final")]
        if not groups:
            continue
        definition = make_definition(_content(evidence, base, groups), f"the board of {base}")
        write_board(build_board(definition, folder.path, folder.store), out / base)
        pages.append(out / base / "index.html")
    return pages


def _content(evidence: Evidence, base: str, groups: list[Group]) -> dict[str, Any]:
    study = evidence.plan.study
    entries = [
        {
            "name": f"{group.method}-{group.reward}-{training.checkpoint}",
            "run": group.name,
            "checkpoint": training.checkpoint,
            "method": group.method.upper(),
            "guard": "" if training.arm == study.claims.unguarded else training.arm,
            "trained_on": [term.scorer for term in study.rewards[group.reward]],
        }
        for group in groups
        for training in group.trainings
    ]
    return {
        "name": f"{study.name}-{base}",
        "title": f"{study.title or study.name}: {base}"[:120],
        "label": study.label if len(study.label) <= _MOST_LABEL else study.label[: _MOST_LABEL - 1] + "…",
        "base": {"run": groups[0].name, "checkpoint": BASE},
        "steps": sorted(study.evaluation.steps),
        "few": study.claims.few,
        "full": study.claims.full,
        "kinds": ["reward", "judge", "realism", "diversity"],
        "gallery": 2,
        "entries": entries,
    }
