"""A run of a base and what was trained from it -> paired differences and velocity-norm ratios, as numbers.

Pairs are pictures of one prompt, seed and step count. Intervals are cluster bootstraps over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nbench.runs.tables import RunTables
from nbench.stats.bootstrap import Interval, cluster_mean

if TYPE_CHECKING:
    import pyarrow as pa

    #: (checkpoint, steps)
    Place = tuple[str, int]
    #: (prompt id, seed)
    Row = tuple[str, int]
    #: (scorer, metric)
    Column = tuple[str, str]


@dataclass(frozen=True)
class Comparison:
    """A checkpoint against the base in one metric at one step count.

    Attributes:
        checkpoint: its name.
        steps: step count.
        scorer: that gives the metric.
        metric: its name in the scores table.
        orientation: "higher", "lower" or "none", whichever is better.
        base: the base's mean over the pairs, so that `mean - base` is the difference; None without a pair.
        mean: the checkpoint's, likewise.
        difference: checkpoint minus base over the pairs, with its 95 % interval; None without a pair.
        coverage: share of the cells in which both have a value, 0 to 1.
    """

    checkpoint: str
    steps: int
    scorer: str
    metric: str
    orientation: str
    base: float | None
    mean: float | None
    difference: Interval | None
    coverage: float


@dataclass(frozen=True)
class NormRatio:
    """The velocity norm of a checkpoint over the base's, at the states of the checkpoint's own trajectories.

    Attributes:
        checkpoint: its name.
        steps: step count.
        ratio: mean over steps and pictures of rms(v) / rms(v_base), guided velocities both, with its 95 % interval
            over prompts; 1 is the base's norm; None where no picture has one.
        coverage: share of the cells whose ratio is known at every step, 0 to 1.
    """

    checkpoint: str
    steps: int
    ratio: Interval | None
    coverage: float


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation of checkpoints on held-out prompts found.

    Attributes:
        run: name of the run in the store, which holds every picture and score.
        base: name of the base in it.
        prompts: prompts per step count.
        seeds: pictures per prompt.
        comparisons: by checkpoint, then step count, then metric.
        norms: by checkpoint, then step count.
        generated: pictures made by this evaluation; the others stood in the store.
        failed: cells without a picture.
        seconds: wall time.
    """

    run: str
    base: str
    prompts: int
    seeds: int
    comparisons: tuple[Comparison, ...]
    norms: tuple[NormRatio, ...]
    generated: int = 0
    failed: int = 0
    seconds: float = 0.0

    def comparison(self, checkpoint: str, metric: str, steps: int) -> Comparison:
        """The one of a checkpoint, metric and step count.

        Raises:
            KeyError: there is none.
        """
        for found in self.comparisons:
            if (found.checkpoint, found.metric, found.steps) == (checkpoint, metric, steps):
                return found
        raise KeyError(f"run {self.run!r} compares no {metric!r} of checkpoint {checkpoint!r} at {steps} steps")

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dictionaries and finite numbers; a bound that there is not (one prompt only) is None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def compare_run(run: RunTables, base: str) -> tuple[tuple[Comparison, ...], tuple[NormRatio, ...]]:
    """Every other checkpoint of a run against `base`, and its velocity norms.

    A cell without a value on either side is left out of means and differences, and lowers the coverage.
    """
    cells = _cells(run.samples)
    values = _scores(run.scores)
    ratios = _ratios(run.norms)
    metrics = [
        (name, metric["name"] or name, metric["orientation"])
        for name, scorer in run.card.get("scorers", {}).items()
        for metric in scorer["metrics"]
    ]
    comparisons, norms = [], []
    for place, rows in cells.items():
        checkpoint, steps = place
        if checkpoint == base:
            continue
        for scorer, metric, orientation in metrics:
            own = values.get((place, (scorer, metric)), {})
            other = values.get(((base, steps), (scorer, metric)), {})
            pairs = [(own[row], other[row], row[0]) for row in rows if row in own and row in other]
            found = _paired(pairs)
            coverage = len(pairs) / len(rows)
            comparisons.append(Comparison(checkpoint, steps, scorer, metric, orientation, *found, coverage))
        known = [(ratios[place, row], row[0]) for row in rows if (place, row) in ratios]
        ratio = cluster_mean([value for value, _ in known], [prompt for _, prompt in known]) if known else None
        norms.append(NormRatio(checkpoint, steps, ratio, len(known) / len(rows)))
    return tuple(comparisons), tuple(norms)


def _paired(pairs: Sequence[tuple[float, float, str]]) -> tuple[float | None, float | None, Interval | None]:
    """Mean of the base, mean of the checkpoint, difference; of (checkpoint's value, base's value, prompt)."""
    if not pairs:
        return None, None, None
    own = math.fsum(value for value, _, _ in pairs) / len(pairs)
    base = math.fsum(value for _, value, _ in pairs) / len(pairs)
    difference = cluster_mean([value - other for value, other, _ in pairs], [prompt for _, _, prompt in pairs])
    return base, own, difference


def _cells(samples: pa.Table) -> dict[Place, list[Row]]:
    cells: dict[Place, list[Row]] = {}
    for checkpoint, steps, prompt, seed in _columns(samples, "checkpoint", "steps", "prompt_id", "seed"):
        cells.setdefault((checkpoint, steps), []).append((prompt, seed))
    return cells


def _scores(scores: pa.Table) -> dict[tuple[Place, Column], dict[Row, float]]:
    """The values that there are."""
    values: dict[tuple[Place, Column], dict[Row, float]] = {}
    names = ("checkpoint", "steps", "scorer", "metric", "prompt_id", "seed", "value")
    for checkpoint, steps, scorer, metric, prompt, seed, value in _columns(scores, *names):
        if value is not None:
            values.setdefault(((checkpoint, steps), (scorer, metric)), {})[prompt, seed] = value
    return values


def _ratios(norms: pa.Table) -> dict[tuple[Place, Row], float]:
    """Each picture's mean over steps, where every step has a ratio."""
    steps_of: dict[tuple[Place, Row], list[float | None]] = {}
    for checkpoint, steps, prompt, seed, ratio in _columns(norms, "checkpoint", "steps", "prompt_id", "seed", "ratio"):
        steps_of.setdefault(((checkpoint, steps), (prompt, seed)), []).append(ratio)
    means = {}
    for place, ratios in steps_of.items():
        known = [ratio for ratio in ratios if ratio is not None]
        if len(known) == len(ratios):
            means[place] = math.fsum(known) / len(known)
    return means


def _columns(table: pa.Table, *names: str) -> Iterable[tuple[Any, ...]]:
    columns = table.select(list(names)).to_pydict()
    return zip(*(columns[name] for name in names), strict=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
