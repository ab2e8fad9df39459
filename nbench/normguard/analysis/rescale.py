"""Inference-time rescale as a control: the scores of a checkpoint's pictures with and without pulling its norms back.

Each setting is an ordinary run of `nbench.runs` over one store, so pictures are content-addressed, a base is generated
once, and a stopped study goes on where it was. Differences are paired: same checkpoint, prompt, seed and step count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nbench.errors import UsageError
from nbench.flow.norms import NormRescale
from nbench.runs.backend import Backend
from nbench.runs.execute import execute
from nbench.runs.observer import Observer
from nbench.runs.store import Store
from nbench.runs.suite import Rescale, Suite
from nbench.runs.tables import RunTables, load_run
from nbench.stats.bootstrap import Interval, cluster_mean

#: the setting that all others are compared with
NONE = "none"


@dataclass(frozen=True)
class RescaleLine:
    """One checkpoint under one setting at one step count, in one metric.

    Attributes:
        checkpoint: its name.
        setting: "none", "full", "one-sided", "phi=0.5", ...
        steps: step count.
        scorer: that gives the metric.
        metric: its column.
        orientation: "higher", "lower" or "none".
        mean: of the setting's pictures that have a value; None where none has.
        difference: paired, setting minus no rescale; None for "none" itself, or where no pair has both values.
        pairs: pictures that have both values (for "none": one value).
        cells: pictures asked for.
        ratio: mean over pictures and steps of rms(v) / rms(v_ref) before the rescale; None where it is not known.
    """

    checkpoint: str
    setting: str
    steps: int
    scorer: str
    metric: str
    orientation: str
    mean: Interval | None
    difference: Interval | None
    pairs: int
    cells: int
    ratio: float | None


@dataclass(frozen=True)
class RescaleStudy:
    """A finished study.

    Attributes:
        lines: checkpoints in order, then metrics, steps, settings.
        runs: setting -> name of its run in the store.
        samples: per-sample columns, one entry per checkpoint, setting, steps, prompt, seed and metric.
    """

    lines: tuple[RescaleLine, ...]
    runs: Mapping[str, str]
    samples: Mapping[str, Sequence[object]]


def settings_of(phis: Sequence[float]) -> dict[str, NormRescale | None]:
    """No rescale, full, one-sided, and one partial setting per phi.

    Raises:
        UsageError: a phi outside [0, 1].
    """
    partial: dict[str, NormRescale | None] = {f"phi={phi:g}": NormRescale(phi) for phi in phis}
    return {NONE: None, "full": NormRescale(), "one-sided": NormRescale(one_sided=True), **partial}


def rescale_study(
    suite: Suite,
    store: Store,
    settings: Mapping[str, NormRescale | None],
    *,
    backend: Backend | None = None,
    observer: Observer | None = None,
) -> RescaleStudy:
    """Run `suite` once per setting and compare each with no rescale.

    Args:
        suite: its reference checkpoint is the base, whose norms are the target and which is never rescaled; it names at
            least one scorer. Its own rescale and norm_ratio are replaced.
        store: where pictures and scores go.
        settings: by name, as `settings_of` gives them; "none" is among them.
        backend: for tests.
        observer: hears of progress.

    Raises:
        UsageError: no scorer, no checkpoint beside the reference, or no setting called "none"; as `execute`.
    """
    if NONE not in settings:
        raise UsageError(f"there is no setting {NONE!r}, which all others are compared with: add it.")
    if not suite.scorers:
        raise UsageError("no scorer is named, and a rescale study compares scores: give --scorers.")
    names = [checkpoint.name for checkpoint in suite.checkpoints if checkpoint.name != suite.reference_name]
    if not names:
        raise UsageError(f"there is no checkpoint beside the reference {suite.reference_name!r}: give one.")
    tables = {}
    for setting, rescale in settings.items():
        own = None if rescale is None else Rescale(phi=rescale.phi, one_sided=rescale.one_sided)
        name = f"{suite.name}-{setting.replace('=', '')}" if suite.name else ""
        asked = suite.model_copy(update={"rescale": own, "norm_ratio": True, "name": name})
        tables[setting] = load_run(execute(asked, store, backend=backend, observer=observer).folder)
    return _compare(tables, names)


_Place = tuple[str, int, str, str]  # checkpoint, steps, scorer, metric
_Values = dict[tuple[str, int], float | None]  # by prompt and seed


def _compare(tables: Mapping[str, RunTables], names: Sequence[str]) -> RescaleStudy:
    scores = {setting: _scores(run) for setting, run in tables.items()}
    ratios = {setting: _ratios(run) for setting, run in tables.items()}
    cards = tables[NONE].card["scorers"]
    metrics = [(name, metric) for name, card in cards.items() for metric in card["metrics"]]
    plain = scores[NONE]
    lines = []
    for name in names:
        for scorer, metric in metrics:
            title = metric["name"] or scorer
            for place in sorted(place for place in plain if (place[0], *place[2:]) == (name, scorer, title)):
                for setting in tables:
                    values = scores[setting][place]
                    change = _minus(values, plain[place])
                    lines.append(
                        RescaleLine(
                            checkpoint=name,
                            setting=setting,
                            steps=place[1],
                            scorer=scorer,
                            metric=title,
                            orientation=metric["orientation"],
                            mean=_mean(values),
                            difference=None if setting == NONE else _mean(change),
                            pairs=sum(value is not None for value in change.values()),
                            cells=len(values),
                            ratio=ratios[setting].get(place[:2]),
                        )
                    )
    runs = {setting: run.folder.name for setting, run in tables.items()}
    return RescaleStudy(tuple(lines), runs, _columns(scores, names))


def _scores(run: RunTables) -> dict[_Place, _Values]:
    found: dict[_Place, _Values] = {}
    for row in run.scores.to_pylist():
        place = (row["checkpoint"], row["steps"], row["scorer"], row["metric"])
        found.setdefault(place, {})[row["prompt_id"], row["seed"]] = row["value"]
    return found


def _ratios(run: RunTables) -> dict[tuple[str, int], float]:
    rows: dict[tuple[str, int], list[float]] = {}
    columns = run.norms.select(["checkpoint", "steps", "ratio"]).to_pydict()
    for name, steps, ratio in zip(columns["checkpoint"], columns["steps"], columns["ratio"], strict=True):
        if ratio is not None:
            rows.setdefault((name, steps), []).append(ratio)
    return {place: sum(values) / len(values) for place, values in rows.items()}


def _minus(values: _Values, others: _Values) -> _Values:
    """Differences of what has a value on both sides; None elsewhere."""
    return {
        cell: None if value is None or (other := others.get(cell)) is None else value - other
        for cell, value in values.items()
    }


def _mean(values: _Values) -> Interval | None:
    known = [(value, prompt) for (prompt, _), value in values.items() if value is not None]
    if not known:
        return None
    return cluster_mean([value for value, _ in known], [prompt for _, prompt in known])


def _columns(scores: Mapping[str, Mapping[_Place, _Values]], names: Sequence[str]) -> dict[str, list[object]]:
    titles = ("checkpoint", "setting", "steps", "scorer", "metric", "prompt_id", "seed", "value")
    columns: dict[str, list[object]] = {title: [] for title in titles}
    for setting, places in scores.items():
        for (name, steps, scorer, metric), values in places.items():
            if name not in names:
                continue
            for (prompt, seed), value in values.items():
                row = (name, setting, steps, scorer, metric, prompt, seed, value)
                for title, entry in zip(titles, row, strict=True):
                    columns[title].append(entry)
    return columns
