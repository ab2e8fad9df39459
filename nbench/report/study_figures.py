"""The line figures of a study: scores and norms against steps, frontiers, training curves, importance ratios."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from nbench.report.page_charts import COLOURS, Line
from nbench.report.study_panels import Figure, Panel
from nbench.report.study_tables import number_in
from nbench.report.study_values import NORM_RATIO, View, differences, make_views, means, trained_measures
from nbench.runs.cube import Measure
from nbench.stats.bootstrap import Floats
from nbench.study.evidence import Analysis, Evidence
from nbench.study.plan import BASE, Group

_ARROWS = {"higher": " ↑", "lower": " ↓"}
_BANDS = "Bands: 95 % intervals over prompts of the paired difference from the base, for these trainings."
_SEEDS = "An arm is the mean over its training seeds."


def study_figures(evidence: Evidence) -> dict[str, Figure]:
    """The figures by name, those without a point left out."""
    views = make_views(evidence)
    made = (
        pooled_figure(evidence, views), groups_figure(evidence, views), norms_figure(evidence, views),
        frontier_figure(evidence), training_figure(evidence), ratios_figure(evidence),
    )  # fmt: skip
    return {figure.name: figure for figure in made if any(not panel.empty for panel in figure.panels)}


def arm_colours(evidence: Evidence) -> dict[str, int]:
    """Arm -> colour, the same in every figure; the base has 0."""
    claims = evidence.plan.study.claims
    chosen = {claims.unguarded: 2, claims.guarded: 1, claims.ratio_guarded: 3}
    others = [arm for arm in evidence.plan.study.arms if arm not in chosen]
    free = [*range(4, COLOURS), *range(COLOURS + 1, 2 * COLOURS)]
    return {BASE: 0, **chosen, **{arm: free[i % len(free)] for i, arm in enumerate(others)}}


def pooled_figure(evidence: Evidence, views: Mapping[str, View]) -> Figure:
    """Quality, realism and norm ratio against steps, over all groups that have both arms."""
    claims = evidence.plan.study.claims
    chosen = poolable(evidence, list(views.values()))
    names = {claims.quality: f"quality: {claims.quality}", claims.realism: f"realism: {claims.realism}"}
    panels = [_pooled_panel(evidence, chosen, name, title) for name, title in names.items()]
    panels.append(_pooled_panel(evidence, chosen, NORM_RATIO.name, "velocity norm"))
    groups = ", ".join(view.group.name for view in chosen) or "none"
    caption = (
        f"Mean over {groups}. {_SEEDS} {_BANDS} Velocity norm: over the base's at the same states, with bands of its "
        "own mean."
    )
    return Figure("steps", "Quality, realism and velocity norm against sampling steps", caption, (tuple(panels),))


def poolable(evidence: Evidence, views: Sequence[View]) -> list[View]:
    """Groups with both arms on the first one's prompts, seeds and steps; GRPO's only where there is no other."""
    claims = evidence.plan.study.claims
    both = [view for view in views if {claims.unguarded, claims.guarded} <= set(view.arms)]
    chosen = [view for view in both if view.group.method != "grpo"] or both
    axes = [(view.cube.steps, view.cube.prompts, view.cube.seeds) for view in chosen]
    return [view for view, own in zip(chosen, axes, strict=True) if own == axes[0]]


def _pooled_panel(evidence: Evidence, chosen: Sequence[View], name: str, title: str) -> Panel:
    claims = evidence.plan.study.claims
    found: list[tuple[View, Measure]] = []
    for view in chosen:
        measure = view.measure(name)
        if measure is not None and measure not in trained_measures(view, evidence):
            found.append((view, measure))
    if not found:
        return Panel(title, "sampling steps", name, ())
    view, measure = found[0]
    sides = {
        arm: _mean([one.base(own) if arm == BASE else one.arm(own, arm) for one, own in found])
        for arm in (BASE, claims.unguarded, claims.guarded)
    }
    return _steps_panel(view, measure, title, sides, arm_colours(evidence))


def _mean(arrays: Sequence[Floats | None]) -> Floats | None:
    known = [array for array in arrays if array is not None]
    return np.mean(known, axis=0) if known and len(known) == len(arrays) else None


def _steps_panel(
    view: View, measure: Measure, title: str, sides: Mapping[str, Floats | None], colours: Mapping[str, int]
) -> Panel:
    steps, prompts = view.cube.steps, view.cube.prompts
    base = sides[BASE]
    lines = []
    for arm, values in sides.items():
        if values is None or (measure is NORM_RATIO and arm == BASE):
            continue
        own = means(list(values), prompts)
        y = [one.value for one in own]
        low: list[float] | None = None
        high: list[float] | None = None
        if measure is NORM_RATIO:
            low, high = [one.low for one in own], [one.high for one in own]
        elif arm != BASE and base is not None:
            moved = differences(base, values, prompts, measure)
            assert moved is not None
            sign = measure.sign or 1
            ends = [sorted((sign * (one.low - one.value), sign * (one.high - one.value))) for one in moved[0]]
            low = [value + end[0] for value, end in zip(y, ends, strict=True)]
            high = [value + end[1] for value, end in zip(y, ends, strict=True)]
        lines.append(Line(arm, colours[arm], [math.log2(count) for count in steps], y, low, high))
    label = "norm / base's norm" if measure is NORM_RATIO else measure.name + _ARROWS.get(measure.orientation, "")
    return Panel(title, "sampling steps", label, tuple(lines), step_ticks(steps),
                 1.0 if measure is NORM_RATIO else None)  # fmt: skip


def step_ticks(steps: Sequence[int]) -> tuple[tuple[float, str], ...]:
    """Step counts on a logarithmic axis."""
    return tuple((math.log2(count), str(count)) for count in steps)


def groups_figure(evidence: Evidence, views: Mapping[str, View]) -> Figure:
    """The trained reward, quality, realism and norm ratio against steps, a row per group."""
    claims = evidence.plan.study.claims
    rows = []
    for view in views.values():
        trained = trained_measures(view, evidence)
        wanted = [*trained, view.measure(claims.quality), view.measure(claims.realism), view.measure(NORM_RATIO.name)]
        arms = [arm for arm in (claims.unguarded, claims.guarded, claims.ratio_guarded) if arm in view.arms]
        panels: list[Panel] = []
        for i, measure in enumerate(wanted):
            if measure is not None and measure not in wanted[:i]:
                sides = {BASE: view.base(measure), **{arm: view.arm(measure, arm) for arm in arms}}
                mark = " (trained)" if measure in trained else ""
                panels.append(_steps_panel(view, measure, f"{measure.name}{mark}", sides, arm_colours(evidence)))
        rows.append(tuple(panels))
    caption = f"A row per group; the first panel is the reward that was trained. {_SEEDS} {_BANDS}"
    return Figure("steps-by-group", "Every group against sampling steps", caption, tuple(rows), tuple(views))


def norms_figure(evidence: Evidence, views: Mapping[str, View]) -> Figure:
    """Norm ratio against steps, a panel per base, a colour per method, guarded arms dashed."""
    claims = evidence.plan.study.claims
    methods = list(dict.fromkeys(view.group.method for view in views.values()))
    panels = []
    for base in dict.fromkeys(view.group.base for view in views.values()):
        lines = []
        ticks: tuple[tuple[float, str], ...] = ()
        for i, method in enumerate(methods):
            mine = [view for view in views.values() if (view.group.base, view.group.method) == (base, method)]
            mine = [view for view in mine if view.cube.steps == mine[0].cube.steps and NORM_RATIO in view.values]
            for arm, dashed in ((claims.unguarded, 0), (claims.guarded, COLOURS)):
                having = [view for view in mine if arm in view.arms and view.cube.prompts == mine[0].cube.prompts]
                values = _mean([view.arm(NORM_RATIO, arm) for view in having])
                if values is None:
                    continue
                own = means(list(values), mine[0].cube.prompts)
                ticks = step_ticks(mine[0].cube.steps)
                x = [place for place, _ in ticks]
                sides = ([one.value for one in own], [one.low for one in own], [one.high for one in own])
                lines.append(Line(f"{method} {arm}", 1 + i % (COLOURS - 1) + dashed, x, *sides))
        panels.append(Panel(base, "sampling steps", "norm / base's norm", tuple(lines), ticks, 1.0))
    caption = (
        f"Velocity norm over the base's at the same states, mean over rewards and seeds. {claims.guarded}: dashed."
    )
    return Figure("norms", "Velocity norm against sampling steps", caption, rows_of(panels, 3))


def rows_of(panels: Sequence[Panel], count: int) -> tuple[tuple[Panel, ...], ...]:
    """Panels in rows of so many."""
    return tuple(tuple(panels[start : start + count]) for start in range(0, len(panels), count))


def frontier_figure(evidence: Evidence) -> Figure:
    """Quality and realism against the trained reward, through the epochs of every arm."""
    claims = evidence.plan.study.claims
    rows, heads = [], []
    for view in make_views(evidence, "trajectory").values():
        trained = trained_measures(view, evidence)[:1]
        panels: list[Panel] = []
        for measure in (view.measure(claims.quality), view.measure(claims.realism)):
            if measure is None or not trained or measure == trained[0]:
                continue
            lines = [
                Line(arm, arm_colours(evidence)[arm], *_path(view, arm, trained[0], measure))
                for arm in (claims.unguarded, claims.guarded, claims.ratio_guarded)
                if view.group.of(arm) and _epochs(view, arm)
            ]
            label, up = (one.name + _ARROWS.get(one.orientation, "") for one in (trained[0], measure))
            panels.append(Panel(measure.name, label, up, tuple(lines)))
        if panels:
            rows.append(tuple(panels))
            heads.append(view.group.name)
    caption = (
        "Each line begins at the base, which all arms share, and goes through the checkpoints of an arm, mean over its "
        "training seeds, prompts and the trajectory's step counts."
    )
    return Figure("frontier", "What the reward costs: the path of a training", caption, tuple(rows), tuple(heads))


def _epochs(view: View, arm: str) -> list[int]:
    """Epochs at which all of an arm's trainings are in the trajectory run."""
    trainings = view.group.of(arm)
    last = max((one.config.optim.epochs for one in trainings), default=0)
    there = set(view.cube.checkpoints)
    return [epoch for epoch in range(1, last + 1) if all(one.at(epoch) in there for one in trainings)]


def _path(view: View, arm: str, across: Measure, up: Measure) -> tuple[list[float], list[float]]:
    stages = [[BASE], *([one.at(epoch) for one in view.group.of(arm)] for epoch in _epochs(view, arm))]
    x, y = [], []
    for stage in stages:
        one, other = view.of(across, stage), view.of(up, stage)
        if one is not None and other is not None and np.isfinite(one).any() and np.isfinite(other).any():
            x.append(float(np.nanmean(one)))
            y.append(float(np.nanmean(other)))
    return x, y


def training_figure(evidence: Evidence) -> Figure:
    """Reward and norm ratio per epoch, a row per group."""
    rows, heads = [], []
    for group in evidence.plan.groups:
        made = (
            _curve_panel(evidence, group, "reward", "reward of the rollouts", ("reward", "mean"), None),
            _curve_panel(evidence, group, "velocity norm", "norm / base's norm", ("stats", "norm_ratio", "mean"), 1.0),
        )
        if not all(panel.empty for panel in made):
            rows.append(made)
            heads.append(group.name)
    caption = "From the trainings' logs, mean over training seeds; the norm ratio is at the updates' draws."
    return Figure("training", "Reward and velocity norm during training", caption, tuple(rows), tuple(heads))


def _curve_panel(
    evidence: Evidence, group: Group, title: str, label: str, path: tuple[str, ...], level: float | None
) -> Panel:
    lines = []
    for arm in dict.fromkeys(one.arm for one in group.trainings):
        logs = [evidence.logs[one.name] for one in group.of(arm) if evidence.logs.get(one.name)]
        epochs = min(map(len, logs), default=0)
        table = [[number_in(log[epoch], *path) for log in logs] for epoch in range(epochs)]
        y = [math.nan if None in row else float(np.mean([one for one in row if one is not None])) for row in table]
        if any(map(math.isfinite, y)):
            lines.append(Line(arm, arm_colours(evidence)[arm], [epoch + 1.0 for epoch in range(epochs)], y))
    return Panel(title, "epoch", label, tuple(lines), level=level)


def ratios_figure(evidence: Evidence) -> Figure:
    """GRPO's importance ratios by step of the sampler, plain and normalised, a row per group."""
    rows = [_ratio_panels(analysis) for analysis in evidence.ratios.values()]
    caption = (
        "Left: mean of the plain ratio minus 1, its band the 95 % interval over prompts. Middle: mean over standard "
        "deviation of the log ratio. Right: its standard deviation over the smallest of all steps."
    )
    return Figure("ratios", "GRPO's importance ratio by sampler step", caption, tuple(rows), tuple(evidence.ratios))


def _ratio_panels(analysis: Analysis) -> tuple[Panel, ...]:
    table = analysis.samples.to_pydict()
    steps = sorted(set(table["step"]))
    at = [[i for i, step in enumerate(table["step"]) if step == one] for one in steps]
    x = [float(step + 1) for step in steps]
    plain: tuple[list[float], list[float], list[float]] = ([], [], [])
    for rows in at:
        found = means(
            [np.expm1(_column(table["log_ratio"], rows))[:, None]], [table["prompt_id"][i] for i in rows]
        )[0]  # fmt: skip
        for side, value in zip(plain, (found.value, found.low, found.high), strict=True):
            side.append(value)
    largest = max((abs(end) for side in plain for end in side if math.isfinite(end)), default=0.0)
    power = math.floor(math.log10(largest)) if largest > 0 else 0
    scaled = [[value / 10.0**power for value in side] for side in plain]
    balance, spread = [], []
    for kind, colour, column in (("plain", 2, "log_ratio"), ("normalised", 3, "log_ratio_normalised")):
        values = [_column(table[column], rows) for rows in at]
        std = np.array([np.nanstd(one) for one in values])
        safe = np.where(std > 0, std, np.nan)
        least = np.nanmin(safe) if np.isfinite(safe).any() else math.nan
        balance.append(Line(kind, colour, x, (np.array([np.nanmean(one) for one in values]) / safe).tolist()))
        spread.append(Line(kind, colour, x, (safe / least).tolist()))
    return (
        Panel(
            "mean of the ratio", "sampler step", f"(ratio − 1) / 1e{power}", (Line("plain", 2, x, *scaled),), level=0.0
        ),
        Panel("mean over its spread", "sampler step", "mean / std", tuple(balance), level=0.0),
        Panel("spread by step", "sampler step", "std / smallest std", tuple(spread), level=1.0),
    )


def _column(values: Sequence[float | None], rows: Sequence[int]) -> Floats:
    return np.array([math.nan if values[i] is None else values[i] for i in rows], dtype=np.float64)
