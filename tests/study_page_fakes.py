"""A study that was never run: evidence and claims made of arrays, with pictures, for everything that renders them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from evidence_fakes import scorer_part
from page_fakes import EVIL, written_run

from nbench.report.study_facts import Done, StudyFacts
from nbench.runs.images import ImageStore, NewPicture
from nbench.runs.tables import RunTables
from nbench.study.claims.claim import Claim, Effect, Part
from nbench.study.config import make_study
from nbench.study.evidence import Analysis, Evidence
from nbench.study.plan import BASE, Group, Plan, RunKind, make_plan

STEPS = (2, 4, 8)
PROMPTS = 12
_SIDE = 16  # of a picture, in pixels
#: scorer -> part of the card
SCORERS = {
    "pocket-aesthetic": scorer_part("pocket-aesthetic"),
    "judge": scorer_part("judge", kind="judge"),
    "pocket-realism": scorer_part("pocket-realism", kind="realism"),
    "pocket-clip": scorer_part("pocket-clip"),
    "pocket-diversity": scorer_part("pocket-diversity", kind="diversity"),
}
#: scorer -> arm -> shift from the base's values
SHIFTS = {
    "pocket-aesthetic": {"unguarded": 1.0, "normguard": 0.95, "symmetric": 0.9, "grpo-guard": 0.8},
    "judge": {"unguarded": -0.8, "normguard": -0.1, "symmetric": -0.2, "grpo-guard": -0.4},
    "pocket-realism": {"unguarded": -0.6, "normguard": -0.05, "symmetric": -0.1, "grpo-guard": -0.3},
    "pocket-clip": {"unguarded": -0.2, "normguard": 0.0, "symmetric": 0.0, "grpo-guard": -0.1},
    "pocket-diversity": {"unguarded": -0.3, "normguard": -0.1, "symmetric": -0.1, "grpo-guard": -0.2},
}
INFLATION = {"unguarded": 0.09, "normguard": 0.01, "symmetric": 0.0, "grpo-guard": 0.05}


@cache
def fake_plan() -> Plan:
    """One base, NFT and AWM for one reward with controls, GRPO with its guard; two training seeds of NFT."""
    arms: dict[str, Any] = {
        "unguarded": {},
        "normguard": {"guards": [{"name": "norm_hinge", "weight": 0.1}]},
        "symmetric": {"guards": [{"name": "symmetric_norm", "weight": 0.1}]},
        "grpo-guard": {"guards": [{"name": "ratio_norm"}]},
    }
    content = {
        "name": "fake",
        "title": f"A fake study {EVIL}",
        "label": "Made of arrays: evidence of nothing.",
        "templates": {"tiny": {one: f"pocket-sd3-{one}" for one in ("nft", "awm", "grpo")}},
        "settings": {"optim.epochs": 20},
        "rewards": {"aesthetic": [{"scorer": "pocket-aesthetic"}]},
        "arms": arms,
        "grid": [
            {"bases": ["tiny"], "methods": ["nft"], "rewards": ["aesthetic"], "seeds": [0, 1],
             "arms": ["unguarded", "normguard"]},
            {"bases": ["tiny"], "methods": ["awm"], "rewards": ["aesthetic"],
             "arms": ["unguarded", "normguard", "symmetric"]},
            {"bases": ["tiny"], "methods": ["grpo"], "rewards": ["aesthetic"],
             "arms": ["unguarded", "normguard", "grpo-guard"]},
        ],
        "evaluation": {"steps": list(STEPS), "scorers": list(SCORERS), "trajectory_every": 5, "limit": PROMPTS},
        "claims": {"quality": "judge", "realism": "pocket-realism", "few": 2, "full": 8},
    }  # fmt: skip
    return make_plan(make_study(content))


def fake_evidence(root: Path, *, pictures: bool = True, kinds: tuple[RunKind, ...] | None = None) -> Evidence:
    """Evidence of all groups; `kinds` of runs, or all."""
    plan = fake_plan()
    runs = {
        (run.group.name, run.kind): _run(root, run.name, run.kind, run.group, pictures and run.kind == "final")
        for run in plan.runs()
        if kinds is None or run.kind in kinds
    }
    logs = {one.name: _log(one.arm, one.seed) for one in plan.trainings}
    return Evidence(plan, runs, ratios={"tiny-grpo-aesthetic": fake_ratios()}, logs=logs)


def _run(root: Path, name: str, kind: RunKind, group: Group, pictures: bool) -> RunTables:
    plan = fake_plan()
    run = next(one for one in plan.runs() if one.name == name)
    shares = {BASE: ("unguarded", 0.0)}
    for checkpoint, (training, epoch) in run.checkpoints.items():
        shares[checkpoint] = (training.arm, 1.0 if epoch is None else epoch / 20)
    values = {
        checkpoint: {
            scorer: _values(scorer, i, SHIFTS[scorer][arm] * share, 1 if part["kind"] == "diversity" else 2)
            for scorer, part in SCORERS.items()
        }
        for i, (checkpoint, (arm, share)) in enumerate(shares.items())
    }
    made = written_run(
        root, values, name=name, texts=[EVIL, "a red fox, in the snow"], pictures=False, steps=STEPS,
        scorers=SCORERS, side=_SIDE,
    )  # fmt: skip
    if pictures:
        _put_pictures(root, made)
    if kind.startswith("rescale"):
        return made
    return _with_ratios(made, {name: INFLATION[arm] * share for name, (arm, share) in shares.items()})


def _put_pictures(root: Path, run: RunTables) -> None:
    """Pictures of the first seed of the first prompts: what pages show. Each has a colour of its own."""
    stored = []
    for i, row in enumerate(run.samples.to_pylist()):
        if row["seed"] == 0 and int(row["prompt_id"][1:]) < 4:
            place = [row["checkpoint"], row["steps"], row["prompt_id"], row["seed"]]
            pixels = np.full((_SIDE, _SIDE, 3), [i * 7 % 256, i * 3 % 256, row["steps"] * 20 % 256], dtype=np.uint8)
            stored.append(NewPicture({"made": place, "width": _SIDE, "height": _SIDE}, pixels, (1.0,)))
    ImageStore(root / "images").put(stored)
    assert stored[0].key in run.samples["key"].to_pylist()


def _values(scorer: str, checkpoint: int, shift: float, seeds: int) -> np.ndarray:
    """[steps, prompts, seeds]: rising with log2(steps); the shift is greatest at few steps."""
    own = np.random.default_rng(len(scorer)).normal(0, 0.5, (1, PROMPTS, 1))
    noise = np.random.default_rng([checkpoint, len(scorer)]).normal(0, 0.15, (len(STEPS), PROMPTS, seeds))
    more = shift * np.array([1.4, 1.1, 1.0])[:, None, None]
    return np.asarray(5 + 0.4 * np.log2(STEPS)[:, None, None] + own + noise + more)


def _with_ratios(run: RunTables, inflation: Mapping[str, float]) -> RunTables:
    import dataclasses

    rows = run.norms.to_pydict()
    ratios = [
        1 + inflation[name] * (1 + 0.5 * step) + 0.01 * seed
        for name, step, seed in zip(rows["checkpoint"], rows["step"], rows["seed"], strict=True)
    ]
    place = run.norms.column_names.index("ratio")
    return dataclasses.replace(run, norms=run.norms.set_column(place, "ratio", pa.array(ratios, pa.float64())))


def _log(arm: str, seed: int) -> tuple[dict[str, Any], ...]:
    guards = {"normguard": {"norm_hinge": 0.123}, "symmetric": {"symmetric_norm": 0.1}}.get(arm, {})
    return tuple(
        {
            "epoch": epoch,
            "reward": {"mean": 5 + 0.05 * epoch * SHIFTS["pocket-aesthetic"][arm] + 0.02 * seed},
            "guards": guards,
            "stats": {"norm_ratio": {"mean": 1 + INFLATION[arm] * epoch / 20}},
            "seconds": {"epoch": 12.0},
        }
        for epoch in range(20)
    )


def fake_ratios() -> Analysis:
    """Log ratios that fall below 0, most at late steps; normalised they do not."""
    draws = np.random.default_rng(5).normal(0, 1, (2, PROMPTS * 2, 6))
    spread = np.linspace(1, 4, 6) * 1e-4
    plain, normalised = (draws[0] - 0.5) * spread, draws[1] * 1e-6
    rows = PROMPTS * 2
    table = {
        "checkpoint": ["unguarded-s0"] * rows * 6,
        "prompt_id": [f"p{i // 2:03d}" for i in range(rows) for _ in range(6)],
        "seed": [i % 2 for i in range(rows) for _ in range(6)],
        "step": [*range(6)] * rows,
        "sigma": [1 - step / 7 for step in range(6)] * rows,
        "log_ratio": plain.reshape(-1).tolist(),
        "log_ratio_normalised": normalised.reshape(-1).tolist(),
    }
    return Analysis({}, (), pa.table(table))


def fake_claims() -> tuple[Claim, ...]:
    """One that holds, one that does not, one that was not measured."""
    series = {
        arm: {"steps": [2.0, 4.0, 8.0], "mean": [at, at / 2, None], "low": [at - 0.2, at / 2 - 0.2, None],
              "high": [at + 0.2, at / 2 + 0.2, None]}
        for arm, at in (("unguarded", -0.8), ("normguard", -0.1))
    }  # fmt: skip
    held = Claim(
        4, "quality", "NormGuard", f"The hinge improves judged quality {EVIL}.", "It holds where low > 0.", "holds",
        Effect(0.7, 0.5, 0.9, "sd of the base", 12, 3),
        (
            Part("tiny-nft-aesthetic s0", Effect(0.8, 0.4, 1.2, "sd of the base", 12), "holds",
                 {"raw": 0.31, "scope": "one", "missing": None}),
            Part(f"tiny-awm-aesthetic {EVIL}", Effect(-0.3, -0.5, -0.1, "sd of the base", 12), "does not hold",
                 {"raw": -0.1}),
            Part("tiny-grpo-aesthetic s0", None, "cannot tell", {}),
        ),
        "Quality rose by 0.7 sd.", ("One base only.",), (), series,
    )  # fmt: skip
    lost = Claim(
        7, "few-steps", "NormGuard", "The gains grow at few steps.", "It holds where low > 0.", "does not hold",
        Effect(-0.2, -0.3, -0.1, "sd of the base", 12, 1), summary="They shrink.",
    )  # fmt: skip
    untold = Claim(
        9, "plain-ratio", "GRPO-Guard", "The ratio falls below 1.", "It holds where high < 0.", "cannot tell", None,
        missing=("nbench analyze ratios",),
    )  # fmt: skip
    return held, lost, untold


def fake_facts() -> StudyFacts:
    """Two commands on two cores."""
    return StudyFacts(
        command="nbench study fake",
        done=(Done("train", "a", "nbench train a", 7200.0), Done("evaluate", "b", f"nbench run b # {EVIL}", 60.0)),
        hashes={"tiny-nft-aesthetic-unguarded-s0": "ab" * 32},
        versions={"torch": "2.9"},
        machine="2 CPU cores, no accelerator",
        nbench="0.1",
        notes=(f"The paper trains SD3.5-M {EVIL}.", "Second paragraph."),
        limits=("One base.",),
    )
