"""Finished runs made of arrays, for everything that compares."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nbench.runs.store import RunFolder
from nbench.runs.tables import RunTables

STEPS = (2, 4, 8)

CARD: dict[str, Any] = {
    "format": 1,
    "nbench": "0",
    "prompts": {"name": "made", "count": 0, "hash": "prompts"},
    "seeds": {"run_seed": 0, "count": 0},
    "sampler": {"name": "euler", "version": 1, "grid": "diffusers", "rescale": None},
    "size": [64, 64],
    "dtype": "float32",
    "device": "cpu",
    "kernels": {"attention": "native"},
    "batch_size": 16,
    "versions": {"torch": "2"},
    "steps": [],
    "reference": "",
    "norm_ratio": False,
    "checkpoints": {},
    "scorers": {},
}


def scorer_part(
    name: str,
    *,
    kind: str = "reward",
    orientation: str = "higher",
    metrics: tuple[str, ...] = ("",),
    version: str = "1",
) -> dict[str, Any]:
    return {
        "identity": f"{name}-{version}",
        "name": name,
        "kind": kind,
        "version": version,
        "metrics": [{"name": metric, "orientation": orientation, "unit": "made up"} for metric in metrics],
        "summary": "made up",
    }


def made_run(
    values: dict[str, dict[str, np.ndarray]],
    *,
    steps: tuple[int, ...] = STEPS,
    scorers: dict[str, dict[str, Any]] | None = None,
    name: str = "made",
    root: Path = Path("store"),
    **card: Any,
) -> RunTables:
    """A run.

    Args:
        values: checkpoint -> scorer -> [steps, prompts, seeds]; NaN is a failure. A scorer of kind "diversity" gives
            [steps, prompts, 1].
        steps: step counts.
        scorers: parts of the card by scorer; made up where not given.
        name: of the run.
        root: of its store.
        card: parts of the card to be replaced; "checkpoints" are merged.
    """
    names = list(dict.fromkeys(scorer for mine in values.values() for scorer in mine))
    parts = {scorer: (scorers or {}).get(scorer) or scorer_part(scorer) for scorer in names}
    any_values = next(
        array for mine in values.values() for scorer, array in mine.items() if parts[scorer]["kind"] != "diversity"
    )
    _, prompts, seeds = any_values.shape
    ids = [f"p{i:03d}" for i in range(prompts)]
    samples, scores, sets, norms = [], [], [], []
    for checkpoint, mine in values.items():
        for i, count in enumerate(steps):
            for p, prompt in enumerate(ids):
                for s in range(seeds):
                    cell = {"checkpoint": checkpoint, "steps": count, "prompt_id": prompt, "seed": s,
                            "key": f"{checkpoint}-{count}-{prompt}-{s}"}  # fmt: skip
                    samples.append(
                        {**cell, "noise_seed": s, "prompt": f"prompt {p}", "tags": ["even" if p % 2 == 0 else "odd"],
                         "height": 64, "width": 64, "path": "images/x.png", "reason": None}
                    )  # fmt: skip
                    norms += [{**cell, "step": k, "sigma": 1.0, "norm": 1.0 + 0.1 * i, "ratio": None} for k in range(2)]
                    for scorer, array in mine.items():
                        if parts[scorer]["kind"] != "diversity":
                            for m, metric in enumerate(parts[scorer]["metrics"]):
                                scores.append({**cell, **_score(scorer, metric["name"], array[i, p, s] + m)})
                for scorer, array in mine.items():
                    if parts[scorer]["kind"] == "diversity":
                        place = {"checkpoint": checkpoint, "steps": count, "prompt_id": prompt, "seeds": seeds}
                        key = f"{checkpoint}-{count}-{prompt}"
                        sets.append({**place, "key": key, **_score(scorer, "", array[i, p, 0])})
    found = copy.deepcopy(CARD)
    found["prompts"]["count"], found["seeds"]["count"], found["steps"] = prompts, seeds, list(steps)
    found["reference"] = next(iter(values))
    found["scorers"] = parts
    found["checkpoints"] = {
        checkpoint: {"weights": checkpoint, "family": "sd3", "guidance": 5.0, "lora_scale": None,
                     "max_sequence_length": 1, "sigmas": {str(count): f"grid-{count}" for count in steps}}
        for checkpoint in values
    }  # fmt: skip
    for key, value in card.items():
        if key == "checkpoints":
            for checkpoint, part in value.items():
                found["checkpoints"][checkpoint].update(part)
        else:
            found[key] = value
    score_names = ["scorer", "metric", "value", "reason"]
    return RunTables(
        folder=RunFolder(root / "runs" / name),
        card=found,
        done={"cells": len(samples)},
        samples=pa.Table.from_pylist(samples),
        scores=_table(scores, [*_CELL, *score_names]),
        sets=_table(sets, ["checkpoint", "steps", "prompt_id", "seeds", "key", *score_names]),
        norms=_table(norms, [*_CELL, "step", "sigma", "norm", "ratio"]),
        speed={},
    )


_CELL = ["checkpoint", "steps", "prompt_id", "seed", "key"]
_TYPES = {"steps": pa.int32(), "seed": pa.int32(), "seeds": pa.int32(), "step": pa.int32(), "value": pa.float64(),
          "sigma": pa.float64(), "norm": pa.float64(), "ratio": pa.float64()}  # fmt: skip


def _table(rows: list[dict[str, Any]], names: list[str]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, _TYPES.get(name, pa.string())) for name in names]))


def _score(scorer: str, metric: str, value: float) -> dict[str, Any]:
    failed = bool(np.isnan(value))
    return {
        "scorer": scorer,
        "metric": metric or scorer,
        "value": None if failed else float(value),
        "reason": "told to fail" if failed else None,
    }


def curve_values(
    *, prompts: int = 40, seeds: int = 2, seed: int = 0, shift: float = 0.0, at: dict[int, float] | None = None,
    noise: float = 0.2, steps: tuple[int, ...] = STEPS,
) -> np.ndarray:  # fmt: skip
    """[steps, prompts, seeds]: log2(steps) + what a prompt is like (the same whatever `seed`) + `shift` + noise.

    `at` adds to single step counts.
    """
    own = np.random.default_rng(99).normal(0, 0.5, (1, prompts, 1))
    values = np.log2(steps)[:, None, None] + own + shift
    values = values + np.random.default_rng(seed).normal(0, noise, (len(steps), prompts, seeds))
    for count, more in (at or {}).items():
        values[steps.index(count)] += more
    return np.asarray(values)
