"""The cost of a study as tables: every task, then totals by stage, then what each scorer has to look at."""

from __future__ import annotations

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from nbench.study.cost import POCKET_FORWARD_SECONDS, PUBLISHED_DEVICES, StudyCost, TaskCost
from nbench.study.tasks import STAGES

_WORDS = {"done": "done", "measured": "measured", "typical": "typical", "operations": "from FLOPs", "unknown": "-"}
_HOUR, _DAY = 3600.0, 86400.0


def cost_tables(cost: StudyCost) -> tuple[RenderableType, ...]:
    """Every task, totals by stage, scorers, and what the figures leave out."""
    parts: list[RenderableType] = [_tasks(cost), _totals(cost)]
    if cost.work().scores:
        parts.append(_scorers(cost))
    parts += [Text(line) for line in cost_notes(cost)]
    return tuple(parts)


def cost_notes(cost: StudyCost) -> tuple[str, ...]:
    """How to read the figures, in sentences."""
    notes = [
        "forwards: rows through the transformer without gradient; trained: rows forward and back. "
        "Every picture is taken to get its reward. time: of tasks one after the other."
    ]
    bases = {one.basis for one in cost.tasks}
    if "measured" in bases:
        notes.append("measured: from the speed of what was trained, sampled or finished here before.")
    if "typical" in bases:
        notes.append(
            f"typical: {1000 * POCKET_FORWARD_SECONDS:g} ms per forward, as pocket checkpoints took on one CPU core of "
            "ours, a forward and its backward counted as three; starting up, scorers and judges come on top."
        )
    if "operations" in bases:
        notes.append(
            f"from FLOPs: operations of the transformer alone, at {cost.tflops:g} TFLOP/s x {cost.utilisation:g} on "
            "one device; decoding, text encoders, scorers and judges come on top. The public codes of DiffusionNFT and "
            f"AWM name {PUBLISHED_DEVICES} GPUs for one training."
        )
    for base in cost.unknown:
        notes.append(
            f"{base} is not known here, so its time and disk are not; guidance above 1 may double its forwards."
        )
    return tuple(notes)


def time_words(seconds: float | None) -> str:
    """Seconds as a reader counts them."""
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / _HOUR:,.1f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:,.1f} days"


def count_words(count: int) -> str:
    """A count to three digits."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return str(count)


def size_words(size: float | None) -> str:
    """Bytes to three digits."""
    if size is None:
        return "-"
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} B"


def _tasks(cost: StudyCost) -> Table:
    table = Table(title=f"Tasks of {cost.study}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", overflow="fold")
    for name in ("forwards", "trained", "pictures", "disk", "time", ""):
        table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)
    for one in cost.tasks:
        table.add_row(Text(one.task), *_cells(one))
    return table


def _cells(one: TaskCost) -> tuple[str, ...]:
    return (
        count_words(one.work.forwards),
        count_words(one.work.trained),
        count_words(one.work.pictures),
        size_words(one.size),
        time_words(one.seconds),
        _WORDS[one.basis],
    )


def _totals(cost: StudyCost) -> Table:
    table = Table(title="By stage", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage")
    several = any(one.basis == "operations" for one in cost.tasks)  # of a device, and not of this machine
    columns = ["tasks", "done", "forwards", "trained", "pictures", "PFLOP", "disk", "time", "remaining"]
    for name in [*columns, f"on {PUBLISHED_DEVICES} devices"] if several else columns:
        table.add_column(name, justify="right", no_wrap=True)
    stages = [stage for stage in STAGES if cost.of(stage)]
    for stage in (*stages, None):
        if stage is None:
            table.add_section()
        tasks, work, flops = cost.of(stage), cost.work(stage), cost.flops(stage)
        left = cost.seconds(stage, remaining=True)
        cells = [
            stage or "all",
            str(len(tasks)),
            str(sum(one.basis == "done" for one in tasks)),
            count_words(work.forwards),
            count_words(work.trained),
            count_words(work.pictures),
            "-" if flops is None else f"{flops / 1e15:,.0f}" if flops > 1e17 else f"{flops / 1e15:.3g}",
            size_words(cost.size(stage)),
            time_words(cost.seconds(stage)),
            time_words(left),
        ]
        if several:
            cells.append(time_words(None if left is None else left / PUBLISHED_DEVICES))
        table.add_row(*cells)
    return table


def _scorers(cost: StudyCost) -> Table:
    table = Table(title="Pictures to score", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("scorer")
    for stage in (*STAGES[:3], None):
        table.add_column(stage or "all", justify="right")
    for name in cost.work().scores:
        counts = [cost.work(stage).scores.get(name, 0) for stage in (*STAGES[:3], None)]
        table.add_row(Text(name), *(count_words(count) if count else "-" for count in counts))
    return table
