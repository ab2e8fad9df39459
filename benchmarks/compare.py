"""Comparing 200,000 score rows: seconds and peak memory of `nbench compare` against a pandas loop.

    python benchmarks/compare.py [--prompts 500] [--seeds 4] [--scorers 10] [--rounds 3] [--clock cpu]

The run is made up, and written as a run folder of parquet tables like any other: two checkpoints, five step counts,
norms of every step. Each contender has a process of its own, whose peak memory is reported (libraries included).

    nbench   load_run and compare: paired differences with studentised cluster-bootstrap intervals, curves with
             simultaneous bands, areas, steps to match, moved prompts, worst pairs
    gate     load_run and evaluate_gate: every measure critical, max-T over all rows
    pandas   the differences alone: a groupby per measure and step count, and a percentile bootstrap over prompts as a
             loop of 10,000 resamples

Both must agree on every mean difference.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

STEPS = (2, 4, 8, 28, 40)
CHECKPOINTS = ("base", "nft")


def made(root: Path, prompts: int, seeds: int, scorers: int) -> int:
    """Write the run; returns its number of score rows."""
    folder = root / "runs/made"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*map(np.arange, (len(CHECKPOINTS), len(STEPS), prompts, seeds)), indexing="ij")
    checkpoint, step, prompt, seed = (axis.ravel() for axis in axes)
    ids = np.array([f"prompt-{i:05d}" for i in range(prompts)])
    cell = {
        "checkpoint": np.array(CHECKPOINTS)[checkpoint],
        "steps": np.array(STEPS, np.int32)[step],
        "prompt_id": ids[prompt],
        "seed": seed.astype(np.int32),
        "key": np.array([f"{i:064x}" for i in range(len(seed))]),
    }
    n = len(seed)
    samples = pa.table(
        {**cell, "noise_seed": np.arange(n), "prompt": ids[prompt], "tags": [["made"]] * n,
         "height": np.full(n, 64, np.int32), "width": np.full(n, 64, np.int32), "path": ["images/x.png"] * n,
         "reason": pa.nulls(n, pa.string())}
    )  # fmt: skip
    names = [f"scorer-{i}" for i in range(scorers)]
    likeness = rng.normal(0, 1, (scorers, prompts))
    tables = []
    for i, name in enumerate(names):
        value = np.log2(STEPS)[step] + likeness[i, prompt] + 0.05 * checkpoint + rng.normal(0, 0.5, n)
        tables.append(
            pa.table({**cell, "scorer": [name] * n, "metric": [name] * n, "value": value,
                      "reason": pa.nulls(n, pa.string()), "truncated": pa.nulls(n, pa.bool_())})
        )  # fmt: skip
    scores = pa.concat_tables(tables)
    rows = np.repeat(np.arange(n), np.array(STEPS)[step])
    norms = pa.table(
        {**{name: column[rows] for name, column in cell.items()}, "step": np.zeros(len(rows), np.int32),
         "sigma": np.ones(len(rows), np.float32), "norm": rng.normal(2, 0.1, len(rows)).astype(np.float32),
         "ratio": pa.nulls(len(rows), pa.float32())}
    )  # fmt: skip
    for name, table in (("samples", samples), ("scores", scores), ("sets", scores.slice(0, 0)), ("norms", norms)):
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
    (folder / "card.json").write_text(json.dumps(card(names)))
    (folder / "done.json").write_text("{}")
    return len(scores)


def card(scorers: list[str]) -> dict[str, Any]:
    own = {"family": "sd3", "guidance": 4.5, "max_sequence_length": None, "sigmas": {str(n): f"{n}" for n in STEPS}}
    return {
        "nbench": "0", "prompts": {"hash": "p"}, "seeds": {}, "sampler": {}, "size": [64, 64], "dtype": "float32",
        "device": "cpu", "kernels": {}, "batch_size": 16, "versions": {}, "steps": list(STEPS),
        "checkpoints": {name: {**own, "weights": name} for name in CHECKPOINTS},
        "scorers": {
            name: {"identity": name, "kind": "reward", "metrics": [{"name": "", "orientation": "higher", "unit": ""}]}
            for name in scorers
        },
    }  # fmt: skip


def with_nbench(root: Path) -> dict[str, float]:
    from nbench.compare import Side, compare
    from nbench.runs.store import Store
    from nbench.runs.tables import load_run

    run = load_run(Store(root).find_run("made"))
    found = compare(Side(run, "base"), Side(run, "nft"))
    return {f"{row.measure.name}-{row.steps}": row.difference.mean for row in found.rows if row.difference}


def with_a_gate(root: Path) -> dict[str, float]:
    from nbench.compare import Side
    from nbench.gates.evaluate import evaluate_gate
    from nbench.gates.policy import make_policy
    from nbench.runs.store import Store
    from nbench.runs.tables import load_run

    run = load_run(Store(root).find_run("made"))
    policy = make_policy({"rules": [{"kinds": ["reward"], "margin": {"sd": 0.2}}]})
    found = evaluate_gate(policy, Side(run, "base"), Side(run, "nft"))
    return {f"{row.name}-{row.steps}": row.row.difference.mean for row in found.rows if row.row and row.row.difference}


def with_pandas(root: Path) -> dict[str, float]:
    import pandas as pd

    scores = pd.read_parquet(root / "runs/made/scores.parquet")
    rng, found = np.random.default_rng(0), {}
    for (metric, steps), group in scores.groupby(["metric", "steps"]):
        sides = [group[group["checkpoint"] == name].set_index(["prompt_id", "seed"])["value"] for name in CHECKPOINTS]
        by_prompt = (sides[1] - sides[0]).groupby("prompt_id").mean().to_numpy()
        means = [rng.choice(by_prompt, len(by_prompt)).mean() for _ in range(10_000)]
        np.quantile(means, [0.025, 0.975])
        found[f"{metric}-{steps}"] = float(by_prompt.mean())
    return found


CONTENDERS = {"nbench": with_nbench, "gate": with_a_gate, "pandas": with_pandas}


def alone(name: str, root: Path, clock: str) -> None:
    now = time.process_time if clock == "cpu" else time.perf_counter
    started = now()
    found = CONTENDERS[name](root)
    seconds = now() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak, "found": found}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--scorers", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine with other work")
    parser.add_argument("--alone", nargs=2, metavar=("CONTENDER", "STORE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        alone(arguments.alone[0], Path(arguments.alone[1]), arguments.clock)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = made(Path(folder), arguments.prompts, arguments.seeds, arguments.scorers)
        size = f"{arguments.prompts} prompts x {arguments.seeds} seeds"
        print(f"{rows} score rows, {size}, median of {arguments.rounds}, {arguments.clock} time")
        known: dict[str, float] = {}
        for name in CONTENDERS:
            results = []
            for _ in range(arguments.rounds):
                command = [sys.executable, __file__, "--clock", arguments.clock, "--alone", name, folder]
                results.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
            seconds = statistics.median(one["seconds"] for one in results)
            peak = statistics.median(one["peak_mib"] for one in results)
            known = known or results[0]["found"]
            differ = max(abs(known[key] - value) for key, value in results[0]["found"].items())
            assert known.keys() == results[0]["found"].keys() and differ < 1e-9, f"{name} found something else"
            print(f"{name:8} {seconds:6.2f} s  {peak:6.0f} MiB peak")


if __name__ == "__main__":
    main()
