"""`nbench analyze`: what fine-tuning did to a checkpoint's velocities, and what that does to rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nbench.cli.analyze_guards import guards
from nbench.cli.run import STORE_OPTION, size_of, wide_console
from nbench.errors import UsageError

if TYPE_CHECKING:
    from nbench.cli.progress import Bars
    from nbench.normguard.analysis.output import Result
    from nbench.normguard.analysis.session import Session

_Command = Callable[..., Any]


def _options(steps: str) -> Callable[[_Command], _Command]:
    """The options that all analyses share."""
    options = [
        click.option(
            "--checkpoint",
            "checkpoints",
            multiple=True,
            required=True,
            metavar="NAME=BASE[+LORA][@REVISION]",
            help="A checkpoint; repeat for more. LoRAs of one base are swapped under one loaded transformer.",
        ),
        click.option("--base", metavar="BASE", help="The base of full fine-tunes. Default: each LoRA's own base."),
        click.option("--prompts", metavar="SET", default="pocket", show_default=True, help="A prompt set, or a file."),
        click.option("--limit", type=click.IntRange(1), metavar="N", help="Use N prompts, spread over their tags."),
        click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Samples per prompt."),
        click.option("--seed", type=click.IntRange(0), default=0, help="Run seed, from which all noise follows."),
        click.option("--steps", default=steps, show_default=True, metavar="N", help="Steps of the sampler."),
        click.option("--guidance", type=float, metavar="G", help="Of policy and base alike. Default: the family's."),
        click.option("--grid", type=click.Choice(["diffusers", "linspace"]), default="diffusers", help="Sigma grid."),
        click.option("--size", metavar="HEIGHTxWIDTH", help="In pixels. Default: the checkpoint's own."),
        click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, metavar="N"),
        click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ..."),
        click.option(
            "--dtype",
            type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            default="auto",
            help="Of networks.",
        ),
        click.option(
            "--out",
            type=click.Path(file_okay=False, path_type=Path),
            metavar="FOLDER",
            help="Write figures (JSON), per-sample values (Parquet) and a plot (SVG) there. Default: print only.",
        ),
    ]

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.group("analyze")
def analyze() -> None:
    """Analyse velocities of fine-tuned checkpoints against their base."""


analyze.add_command(guards)


@analyze.command("norms")
@_options("28")
@click.option(
    "--states", default="base,own,renoised", show_default=True, metavar="KIND,...", help="Where to compare velocities."
)
def norms(states: str, out: Path | None, **flags: Any) -> None:
    """Velocity-norm ratio to the base, by timestep, on three kinds of states."""
    from nbench.normguard.analysis.inflation import inflation, summarise_inflation
    from nbench.report.analysis import norms_plot, norms_table

    kinds: Any = tuple(_words(states))
    session = _session(flags)
    session.check_differs()
    with _work(session, out, "norms", states=list(kinds)) as (bars, result, show):
        lines = {}
        for pair in session.pairs():
            bars.stage(f"norms of {pair.name}", session.samples, 0)
            found = inflation(
                pair.model, pair.reference, session.prompts.prompts, guidance=pair.guidance, states=kinds,
                on_batch=bars.advance, **session.sampling(),
            )  # fmt: skip
            lines[pair.name] = summarise_inflation(found)
            result.add_figures(lines[pair.name], checkpoint=pair.name, guidance=pair.guidance)
            for kind, table in found.states.items():
                values = {"norm": table.policy, "base_norm": table.reference, "cosine": table.cosine}
                result.add_arrays(
                    found.prompt_ids, found.seeds, found.sigmas, values, checkpoint=pair.name, states=kind
                )
        show([norms_table(lines)], norms_plot(lines))


@analyze.command("adjoint")
@_options("10")
@click.option("--reward", default="pocket-clip", show_default=True, metavar="SCORER", help="A differentiable scorer.")
@click.option("--controls", type=click.IntRange(1), default=8, show_default=True, help="Random directions per step.")
def adjoint(reward: str, controls: int, out: Path | None, **flags: Any) -> None:
    """First-order change of a reward when the velocity of one step is scaled."""
    from nbench.normguard.analysis.adjoint import adjoint_sensitivity
    from nbench.normguard.analysis.coherence import summarise_sensitivity
    from nbench.report.analysis import sensitivity_plot, sensitivity_table
    from nbench.runs.backend import resolve_device
    from nbench.scoring.differentiable import get_differentiable
    from nbench.scoring.registry import card_identity

    scorer = get_differentiable(reward, resolve_device(flags["device"]))
    session = _session(flags)
    own = {"reward": reward, "reward_identity": card_identity(scorer.card), "controls": controls}
    with _work(session, out, "adjoint", **own) as (bars, result, show):
        lines = {}
        for pair in session.pairs():
            bars.stage(f"adjoint of {pair.name}", session.samples, 0)
            found = adjoint_sensitivity(
                pair.model, scorer, session.prompts.prompts, guidance=pair.guidance, controls=controls,
                on_batch=bars.advance, **session.sampling(),
            )  # fmt: skip
            lines[pair.name] = summarise_sensitivity(found)
            result.add_figures(lines[pair.name], checkpoint=pair.name, guidance=pair.guidance)
            values = {"sensitivity": found.values} | {f"control_{i}": draw for i, draw in enumerate(found.controls)}
            result.add_arrays(found.prompt_ids, found.seeds, found.sigmas, values, checkpoint=pair.name)
        show([sensitivity_table(name, reward, own) for name, own in lines.items()], sensitivity_plot(reward, lines))


@analyze.command("ratios")
@_options("10")
@click.option("--eta", type=float, default=0.7, show_default=True, help="Noise level of the SDE.")
@click.option("--clip", type=float, default=1e-4, show_default=True, help="Clip of raw ratios.")
@click.option("--clip-normalised", type=float, default=2e-6, show_default=True, help="Clip of normalised ratios.")
@click.option(
    "--perturb",
    type=float,
    metavar="STD",
    help="Instead of a LoRA, a random one that changes each attention projection by STD times its RMS.",
)
def ratios(
    eta: float, clip: float, clip_normalised: float, perturb: float | None, out: Path | None, **flags: Any
) -> None:
    """Flow-GRPO's importance ratios by timestep, raw and normalised as in GRPO-Guard."""
    from nbench.normguard.analysis.perturb import perturbed
    from nbench.normguard.analysis.ratios import ratio_statistics, summarise_ratios
    from nbench.report.analysis import ratio_plot, ratio_table

    session = _session(flags)
    if perturb is None:
        session.check_differs()
    own = {"eta": eta, "clip": clip, "clip_normalised": clip_normalised, "perturb": perturb}
    with _work(session, out, "ratios", **own) as (bars, result, show):
        lines = {}
        for pair in session.pairs():
            bars.stage(f"ratios of {pair.name}", session.samples, 0)
            with perturbed(pair.model, perturb, seed=session.request.seed):
                found = ratio_statistics(
                    pair.model, pair.reference, session.prompts.prompts, guidance=pair.guidance, eta=eta,
                    on_batch=bars.advance, **session.sampling(),
                )  # fmt: skip
            lines[pair.name] = summarise_ratios(found, clip=clip, clip_normalised=clip_normalised)
            result.add_figures(lines[pair.name], checkpoint=pair.name, guidance=pair.guidance)
            values = {"log_ratio": found.raw, "log_ratio_normalised": found.normalised}
            result.add_arrays(found.prompt_ids, found.seeds, found.sigmas, values, checkpoint=pair.name)
        show([ratio_table(name, own) for name, own in lines.items()], ratio_plot(lines))


@analyze.command("rescale")
@_options("28")
@click.option("--scorers", required=True, metavar="NAME,...", help="Scorers; see `nbench scorers list`.")
@click.option("--phi", default="", metavar="PHI,...", help="Partial strengths to try besides full and one-sided.")
@STORE_OPTION
def rescale(scorers: str, phi: str, store: Path, out: Path | None, **flags: Any) -> None:
    """Scores with the velocity norm pulled back to the base's while sampling; --steps takes a list here."""
    from nbench.normguard.analysis.rescale import rescale_study, settings_of
    from nbench.report.analysis import rescale_plot, rescale_table
    from nbench.runs.store import Store

    settings = settings_of([_number(part, "--phi") for part in _words(phi)])
    steps = flags.pop("steps")
    session = _session({**flags, "steps": "1"})
    session.check_differs()
    suite = session.suite(steps=steps, scorers=scorers)
    own = {"steps": list(suite.steps), "scorers": list(suite.scorers), "rescale": list(settings)}
    with _work(session, out, "rescale", **own) as (bars, result, show):
        study = rescale_study(suite, Store(store), settings, observer=bars)
        result.add_figures(study.lines)
        result.add_rows(study.samples)
        show([rescale_table(study.lines)], rescale_plot(study.lines))


@contextmanager
def _work(session: Session, out: Path | None, name: str, **own: object) -> Iterator[tuple[Bars, Result, _Show]]:
    """Inside, the command works under a progress bar; then tables and plot that it shows are printed and written."""
    from rich.console import Console

    from nbench.cli.progress import Bars
    from nbench.normguard.analysis.output import Result, check_folder

    settings = session.settings(**own)
    if out is not None:
        check_folder(out, name, settings)
    result, shown = Result(), _Show()
    with Bars(Console(stderr=True)) as bars:
        yield bars, result, shown
    console = wide_console()
    for table in shown.tables:
        console.print(table)
    if out is not None:
        result.write(out, name, settings=settings, plot=shown.plot)
        click.echo(f"Written: {out / name}.json, .parquet and .svg")


class _Show:
    """Tables for the screen, and the plot for the folder."""

    tables: Sequence[Any] = ()
    plot: str = ""

    def __call__(self, tables: Sequence[Any], plot: str) -> None:
        self.tables, self.plot = tables, plot


def _session(flags: dict[str, Any]) -> Session:
    from nbench.flow.spec import parse_checkpoint
    from nbench.normguard.analysis.session import Request, Session

    checkpoints = tuple(parse_checkpoint(text) for text in flags.pop("checkpoints"))
    size, steps = flags.pop("size"), flags.pop("steps")
    if not steps.isascii() or not steps.isdigit() or int(steps) < 1:
        raise UsageError(f"--steps {steps!r} is no number of steps: write a whole number of at least 1, such as 28.")
    parsed = None if size is None else size_of(size)
    return Session(Request(checkpoints=checkpoints, size=parsed, steps=int(steps), **flags))


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{option} {text!r} is no number: write numbers from 0 to 1, such as 0.5.") from None
