"""Gates on made-up runs, in memory and on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from evidence_fakes import curve_values, made_run

from nbench.compare import Side
from nbench.gates.evaluate import GateResult, evaluate_gate
from nbench.gates.policy import make_policy
from nbench.runs.tables import TABLES, RunTables

Values = dict[str, np.ndarray]

REWARDS = {"kinds": ["reward"], "margin": {"sd": 0.2}}


def gate(candidate: Values, base: Values | None = None, rules: Any = None, **options: Any) -> GateResult:
    """A policy of `rules` held against a candidate; the base differs from it by noise alone where it is not given."""
    scorers, policy = options.pop("scorers", None), options.pop("policy", {})
    mine = base or {name: curve_values(seed=i) for i, name in enumerate(candidate)}
    run = made_run({"base": mine, "nft": candidate}, scorers=scorers, **options)
    rules = [REWARDS] if rules is None else rules
    return evaluate_gate(make_policy({"rules": rules, **policy}), Side(run, "base"), Side(run, "nft"))


def gates() -> dict[str, GateResult]:
    """One result of every sort that a report has to show."""
    gap = curve_values()
    gap[0, 3, 1] = np.nan
    missing = [REWARDS, {"kinds": ["judge"], "margin": {"sd": 1}}, {"scorers": ["b"], "margin": {"sd": 1}}]
    tiers = [
        {"scorers": ["a"], "margin": {"sd": 0.5}},
        {"tier": "supporting", "scorers": ["b"], "margin": {"absolute": 0.1}},
        {"tier": "advisory", "scorers": ["c"], "margin": {"absolute": 0.1}},
    ]
    shifted = {name: curve_values(seed=5, shift=shift) for name, shift in (("a", 0.0), ("b", -1.0), ("c", -1.0))}
    return {
        "pass": gate({"a": curve_values()}),
        "breach": gate({"a": curve_values(seed=5, at={2: -1.0})}),
        "inconclusive": gate({"a": gap}),
        "missing": gate({"a": curve_values()}, rules=missing),
        "tiers": gate(shifted, rules=tiers),
        "empty": gate({"a": curve_values()}, rules=[]),
    }


def store_run(run: RunTables, root: Path) -> Path:
    """Put a made-up run on disk as a finished one, without pictures; returns its folder."""
    folder = root / "runs" / run.folder.name
    folder.mkdir(parents=True)
    for name in TABLES:
        pq.write_table(getattr(run, name), folder / f"{name}.parquet")
    (folder / "suite.yaml").write_text("checkpoints: [base=nowhere]\n")
    (folder / "card.json").write_text(json.dumps(run.card))
    (folder / "done.json").write_text(json.dumps({"cells": len(run.samples)}))
    return folder
