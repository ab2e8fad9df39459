"""A study with planted truths: a plan of pocket templates, and runs, analyses and logs made of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from evidence_fakes import made_run, scorer_part

from nbench.runs.tables import RunTables
from nbench.study.config import make_study
from nbench.study.evidence import Analysis, Evidence
from nbench.study.plan import BASE, Group, Plan, PlannedRun, Training, make_plan

STEPS = (2, 8)
EPOCHS, EVERY = 20, 5
REWARD, QUALITY, REALISM, PROXY = "pocket-aesthetic", "quality", "realism", "proxy"
SCORERS = {
    REWARD: scorer_part(REWARD),
    QUALITY: scorer_part(QUALITY, kind="judge"),
    REALISM: scorer_part(REALISM, kind="realism", orientation="lower"),
    PROXY: scorer_part(PROXY),
}
#: in which direction each scorer is better
SIGNS = {REWARD: 1, QUALITY: 1, REALISM: -1, PROXY: 1}
PROMPTS, SEEDS = 24, 2
#: of an analysis of ratios: standard deviations need more
RATIO_PROMPTS = 400


def made_plan(
    *,
    methods: Sequence[str] = ("nft", "awm", "dpo"),
    seeds: Sequence[int] = (0, 1, 2),
    reward: str = REWARD,
    **claims: Any,
) -> Plan:
    """One base; unguarded and guarded trainings of every method, and GRPO's with its own guard."""
    arms = ["unguarded", "normguard"]
    blocks = [
        {"bases": "pocket", "methods": [method], "rewards": "aes", "arms": arms, "seeds": list(seeds)}
        for method in methods
    ]
    for block in blocks:
        if block["methods"] == ["grpo"]:
            block["arms"] = [*arms, "grpo-guard"]
    content = {
        "name": "made",
        "templates": {"pocket": {method: f"pocket-sd3-{method}" for method in methods}},
        "settings": {"model.guidance": 1.0, "optim.epochs": EPOCHS},
        "rewards": {"aes": [{"scorer": reward}]},
        "arms": {
            "unguarded": {},
            "normguard": {"guards": [{"name": "norm_hinge", "weight": 1.0}]},
            "grpo-guard": {"guards": [{"name": "ratio_norm"}]},
        },
        "grid": blocks,
        "evaluation": {
            "scorers": list(SCORERS),
            "steps": list(STEPS),
            "trajectory_every": EVERY,
            "trajectory_steps": 8,
        },
        "claims": {"quality": QUALITY, "realism": REALISM, "few": STEPS[0], "full": STEPS[-1], **claims},
    }
    return make_plan(make_study(content))


@dataclass
class Truth:
    """What is planted, in standard deviations of the base (1 in every measure's own unit), better being positive.

    Attributes:
        gains: arm -> measure -> gain over the base at the end of training, at every step count.
        few: the same, in addition, at the fewest steps.
        inflation: arm, or "METHOD-ARM" before it -> mean norm ratio minus 1 at the end.
        rescaled: measure -> what rescaling an unguarded checkpoint adds.
        shape: exponent of the share of training done, with which gains grow; by measure, 1 where not given.
        noise: standard deviation of a picture around what its prompt, seed and checkpoint give.
        between: standard deviation of gains over trainings.
    """

    gains: dict[str, dict[str, float]] = field(default_factory=dict)
    few: dict[str, dict[str, float]] = field(default_factory=dict)
    inflation: dict[str, float] = field(default_factory=dict)
    rescaled: dict[str, float] = field(default_factory=dict)
    shape: dict[str, float] = field(default_factory=dict)
    noise: float = 0.3
    between: float = 0.02


def made_evidence(plan: Plan, truth: Truth, *, kinds: Sequence[str] = (), **more: Any) -> Evidence:
    """Runs of the plan of the kinds that are named (all without any), in which `truth` holds."""
    runs = {(run.group.name, run.kind): _run(run, truth) for run in plan.runs() if not kinds or run.kind in kinds}
    return Evidence(plan, runs, **more)


def _run(planned: PlannedRun, truth: Truth) -> RunTables:
    steps = (8,) if planned.kind == "trajectory" else STEPS
    own = np.random.default_rng(7).normal(size=(len(SCORERS), 1, PROMPTS, SEEDS))  # the base's pictures
    own = (own - own.mean()) / own.std()
    values: dict[str, dict[str, np.ndarray]] = {
        BASE: {name: SIGNS[name] * np.repeat(own[i], len(steps), axis=0) for i, name in enumerate(SCORERS)}
    }
    ratios = {BASE: np.ones((len(steps), PROMPTS, SEEDS))}
    for i, (checkpoint, (training, epoch)) in enumerate(planned.checkpoints.items()):
        rng = np.random.default_rng([sum(map(ord, planned.name)), i])
        share = 1.0 if epoch is None else epoch / EPOCHS
        mine = {}
        for j, name in enumerate(SCORERS):
            gain = truth.gains.get(training.arm, {}).get(name, 0.0) * share ** truth.shape.get(name, 1.0)
            gains = np.full((len(steps), 1, 1), gain)
            if len(steps) > 1:
                gains[0] += truth.few.get(training.arm, {}).get(name, 0.0)
            if planned.kind.startswith("rescale"):
                gains = gains + truth.rescaled.get(name, 0.0)
            gains = gains + rng.normal(0, truth.between) + rng.normal(0, truth.noise, (len(steps), PROMPTS, SEEDS))
            mine[name] = SIGNS[name] * (own[j] + gains)
        values[checkpoint] = mine
        inflation = truth.inflation.get(f"{training.method}-{training.arm}", truth.inflation.get(training.arm, 0.0))
        ratios[checkpoint] = 1 + inflation * share + rng.normal(0, 0.01, (len(steps), PROMPTS, SEEDS))
    card: dict[str, Any] = {}
    if planned.kind.startswith("rescale"):
        card["sampler"] = {
            "name": "euler", "version": 1, "grid": "diffusers",
            "rescale": {"phi": 1.0, "one_sided": planned.kind == "rescale-one-sided"},
        }  # fmt: skip
    run = made_run(values, steps=steps, scorers=SCORERS, name=planned.name, **card)
    return run if planned.kind.startswith("rescale") else with_ratios(run, ratios, steps)


def with_ratios(run: RunTables, ratios: Mapping[str, np.ndarray], steps: Sequence[int]) -> RunTables:
    """The run with norm ratios, [steps, prompts, seeds] per checkpoint, alike on both steps of its norms table."""
    place = {count: i for i, count in enumerate(steps)}
    rows = run.norms.select(["checkpoint", "steps", "prompt_id", "seed"]).to_pylist()
    column = [
        float(ratios[row["checkpoint"]][place[row["steps"]], int(row["prompt_id"][1:]), row["seed"]]) for row in rows
    ]
    norms = run.norms.set_column(run.norms.column_names.index("ratio"), "ratio", pa.array(column, pa.float64()))
    return replace(run, norms=norms)


def made_adjoint(group: Group, sensitivity: float, *, spread: float = 1.0, steps: int = 8) -> Analysis:
    """Sensitivities of a group's unguarded checkpoints whose sum over steps has this mean; the base's too."""
    names = [BASE, *(one.checkpoint for one in group.of("unguarded"))]
    columns: dict[str, list[Any]] = {}
    for i, name in enumerate(names):
        rng = np.random.default_rng([5, i])
        values = (sensitivity + rng.normal(0, spread, (PROMPTS, 1))) / steps + np.zeros((1, steps))
        arrays = {"sensitivity": values, "control_0": rng.normal(0, spread / steps, (PROMPTS, steps)),
                  "control_1": rng.normal(0, spread / steps, (PROMPTS, steps))}  # fmt: skip
        _add(columns, name, arrays, steps)
    return Analysis({"steps": steps, "reward": REWARD}, (), pa.table(columns))


def made_ratios(
    group: Group, *, mean: float, stds: Sequence[float], normalised_mean: float, normalised_stds: Sequence[float]
) -> Analysis:
    """Log-ratios of a group's unguarded checkpoints, with these means and standard deviations by step."""
    columns: dict[str, list[Any]] = {}
    for i, one in enumerate(group.of("unguarded")):
        z = np.random.default_rng([6, i]).normal(size=(RATIO_PROMPTS, len(stds)))
        arrays = {"log_ratio": mean + z * stds, "log_ratio_normalised": normalised_mean + z * normalised_stds}
        _add(columns, one.checkpoint, arrays, len(stds))
    return Analysis({"steps": len(stds) + 1}, (), pa.table(columns))


def made_log(training: Training, means: Sequence[float]) -> tuple[dict[str, Any], ...]:
    """A GRPO training's log of two epochs with these mean log-ratios by step."""
    by = {str(step): {"mean": mean, "std": 1e-4, "count": 8} for step, mean in enumerate(means)}
    return tuple(
        {"epoch": epoch, "name": training.name, "stats": {"log_ratio": {"mean": 0.0, "by": by}}} for epoch in (0, 1)
    )


def _add(columns: dict[str, list[Any]], checkpoint: str, arrays: Mapping[str, np.ndarray], steps: int) -> None:
    count = len(next(iter(arrays.values())))
    rows: dict[str, list[Any]] = {
        "checkpoint": [checkpoint] * (count * steps),
        "prompt_id": [f"p{i:03d}" for i in range(count) for _ in range(steps)],
        "seed": [0] * (count * steps),
        "step": [*range(steps)] * count,
        "sigma": [1 - k / steps for k in range(steps)] * count,
        **{name: array.reshape(-1).tolist() for name, array in arrays.items()},
    }
    for name, column in rows.items():
        columns.setdefault(name, []).extend(column)


def with_failures(run: RunTables, scorer: str, prompts: Sequence[int], checkpoint: str | None = None) -> RunTables:
    """The run in which a scorer failed on these prompts, of one checkpoint or of all."""
    failed = np.isin(np.array(run.scores["prompt_id"]), [f"p{i:03d}" for i in prompts])
    failed &= np.array(run.scores["scorer"]) == scorer
    if checkpoint is not None:
        failed &= np.array(run.scores["checkpoint"]) == checkpoint
    values = pa.array(np.array(run.scores["value"]), pa.float64(), mask=failed)
    return replace(run, scores=run.scores.set_column(run.scores.column_names.index("value"), "value", values))
