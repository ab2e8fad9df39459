"""`nbench study`: train, evaluate and compare a grid of unguarded and guarded checkpoints, and test claims on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nbench.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from nbench.study.folder import StudyFolder
    from nbench.study.plan import Plan
    from nbench.study.tasks import Task

_STAGES = ("train", "evaluate", "analyze", "report")


@click.command("study")
@click.argument("config", required=False)
@click.option("--list", "listing", is_flag=True, help="List the bundled studies.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder of the study. Default: nbench-studies/NAME.",
)
@click.option(
    "--stage",
    "stages",
    multiple=True,
    type=click.Choice(_STAGES),
    help="Do only this; repeat for more. Stages may run on different machines, with the folder copied between them.",
)
@click.option(
    "--only", multiple=True, metavar="PATTERN", help="Only trainings whose names match, such as 'pocket-sd3-nft-*'."
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes at a time.")
@click.option("--gpus", default="", metavar="ID,...", help="One process on each of these GPUs, in place of --jobs.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and what it would cost; write nothing.")
@click.option("--commands", is_flag=True, help="Print the commands that are still to run, one per line; write nothing.")
@click.option(
    "--tflops", type=click.FloatRange(min=0, min_open=True), default=400.0, show_default=True,
    help="Of the device, for --dry-run where nothing was measured.",
)  # fmt: skip
@click.option(
    "--utilisation", type=click.FloatRange(min=0, max=1, min_open=True), default=0.35, show_default=True,
    help="Share of these that is reached.",
)  # fmt: skip
def study(
    config: str | None,
    listing: bool,
    out: Path | None,
    stages: tuple[str, ...],
    only: tuple[str, ...],
    jobs: int,
    gpus: str,
    dry_run: bool,
    commands: bool,
    tflops: float,
    utilisation: float,
) -> None:
    """Run the study CONFIG, a YAML file or the name of a bundled one.

    It trains every checkpoint of the grid, guarded and not, from the same seeds, prompts and order; evaluates all of
    them alike; and writes tables, figures, a leaderboard, a page, and the claims of the papers with their verdicts.
    What is finished is not done again, so the same command resumes a stopped study.
    """
    if listing:
        _list()
        return
    if config is None:
        raise UsageError("name a study: a YAML file, or one of `nbench study --list`.")
    from nbench.study.check import check_measures
    from nbench.study.config import read_study
    from nbench.study.folder import StudyFolder
    from nbench.study.plan import make_plan, select
    from nbench.study.tasks import command_line, make_tasks

    plan = make_plan(read_study(config))
    check_measures(plan.study)
    folder = StudyFolder(out or Path("nbench-studies") / plan.study.name)
    chosen = set(select(plan, only))
    wanted = stages or _STAGES
    tasks = [
        task
        for task in make_tasks(plan, folder)
        if task.stage in wanted and (not only or chosen.issuperset(task.trainings))
    ]
    if dry_run:
        _estimate(plan, folder, tasks, tflops, utilisation)
    elif commands:
        for task in tasks:
            if not task.done():
                click.echo(command_line(task.arguments))
    else:
        _run(plan, folder, tasks, wanted, jobs, [part.strip() for part in gpus.split(",") if part.strip()])


def _list() -> None:
    from rich.table import Table

    from nbench.cli.run import wide_console
    from nbench.study.config import bundled_studies, read_study
    from nbench.study.plan import make_plan

    table = Table("study", "bases", "methods", "rewards", "arms", "trainings", title="Bundled studies")
    for name, path in bundled_studies().items():
        study = read_study(path)
        trainings = make_plan(study).trainings
        methods = ", ".join(dict.fromkeys(one.method for one in trainings))
        table.add_row(
            name, ", ".join(study.templates), methods, ", ".join(study.rewards), ", ".join(study.arms),
            str(len(trainings)),
        )  # fmt: skip
    wide_console().print(table)


def _estimate(plan: Plan, folder: StudyFolder, tasks: list[Task], tflops: float, utilisation: float) -> None:
    from nbench.cli.run import wide_console
    from nbench.report.study_cost import cost_tables
    from nbench.study.cost import estimate_study

    found = estimate_study(plan, folder, tasks, tflops=tflops, utilisation=utilisation)
    console = wide_console()
    for table in cost_tables(found):
        console.print(table)
    click.echo("Nothing was loaded, made or written.")


def _run(
    plan: Plan, folder: StudyFolder, tasks: list[Task], wanted: tuple[str, ...], jobs: int, gpus: list[str]
) -> None:
    from rich.console import Console

    from nbench.normguard.heldout import write_held_out
    from nbench.study.schedule import check, run_tasks

    folder.begin(plan.study)
    folder.prompts.parent.mkdir(parents=True, exist_ok=True)
    write_held_out(plan.prompts, folder.prompts)
    progress = run_tasks(tasks, folder, _Lines(Console(stderr=True)), jobs=jobs, gpus=gpus)
    click.echo(
        f"Tasks: {len(progress.done)} done, {len(progress.before)} done before, {len(progress.failed)} failed, "
        f"{len(progress.waiting)} waiting for trainings."
    )
    if "report" in wanted:
        _report(plan, folder)
    check(progress, folder)


def _report(plan: Plan, folder: StudyFolder) -> None:
    from nbench.cli.run import wide_console
    from nbench.report.study_terminal import claims_lines
    from nbench.study.report import write_report

    written = write_report(plan, folder)
    wide_console().print(claims_lines(written.claims))
    for page in written.boards:
        click.echo(f"Board: {page}")
    click.echo(f"Claims: {folder.results / 'claims.json'}")
    click.echo(f"Report: {folder.results / 'index.html'}")


class _Lines:
    """A line per task, when it begins and when it is over."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def started(self, task: Any, place: int, total: int) -> None:
        self._print(f"[{place}/{total}] {task.name}")

    def ended(self, task: Any, seconds: float, failure: str) -> None:
        self._print(f"        {task.name}: {f'FAILED. {failure}' if failure else f'done in {seconds / 60:.1f} min'}")
