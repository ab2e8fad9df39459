"""The `nbench` command: one file per command, imported only when that command runs.

A command `NAME` is the click command called `NAME` in the module that `COMMANDS` gives for it. Such a module parses and
renders; it must not import torch, diffusers, transformers, pyarrow or PIL at its top level.

Exit codes: 0 done or gate passed, 1 gate breached, 2 gate inconclusive, 3 usage or input error, 4 infrastructure or
interrupted (a run can be resumed).
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

import click

import nbench
from nbench.errors import InfrastructureError, NbenchError, UsageError, did_you_mean

#: command -> (module, the line that `nbench --help` prints, so that help imports no command)
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("nbench.cli.run", "Generate pictures from checkpoints at several step counts and score them."),
    "show": ("nbench.cli.show", "Print the table, coverage, failures and card of a run."),
    "compare": ("nbench.cli.compare", "Compare two checkpoints pair by pair, with intervals and curves."),
    "gate": ("nbench.cli.gate", "Hold a release policy against a candidate: pass, breach or inconclusive."),
    "bisect": ("nbench.cli.bisect", "Find the first checkpoint of a training run that breaches a policy."),
    "leaderboard": ("nbench.cli.leaderboard", "Rank checkpoints on few-step robustness; make and check submissions."),
    "report": ("nbench.cli.report", "Write a run as a page: summary, curves, pair viewer, failures, card."),
    "export": ("nbench.cli.export", "Write a run's tables as parquet, csv or a Hugging Face data set."),
    "train": ("nbench.cli.train", "Fine-tune a checkpoint by NFT, AWM, DPO or Flow-GRPO, with guards."),
    "study": ("nbench.cli.study", "Train and compare unguarded and guarded checkpoints, and test the papers' claims."),
    "analyze": ("nbench.cli.analyze", "Analyse velocities of fine-tuned checkpoints against their base."),
    "prompts": ("nbench.cli.prompts", "List prompt sets, or show the prompts of one."),
    "scorers": ("nbench.cli.scorers", "List, describe and check scorers."),
    "judge": ("nbench.cli.judge", "Serve, install and check multimodal-LLM judges."),
    "realism": ("nbench.cli.realism", "Check realism detectors, and train one on your own pictures."),
    "doctor": ("nbench.cli.doctor", "Say what this machine can run."),
}


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print nbench's own warnings as one sentence; leave everybody else's as they are."""
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category.__module__.split(".")[0] == "nbench":
            click.echo(f"Warning: {message}", err=True)
        else:
            usual(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


@contextlib.contextmanager
def _exit_codes(debug: bool) -> Iterator[None]:
    """Turn every way a command can end badly into a message on stderr and nbench's exit code."""
    try:
        yield
    except click.exceptions.Exit:
        raise
    except click.ClickException as error:
        if debug:
            _print_traceback()
        error.show()
        raise click.exceptions.Exit(UsageError.exit_code) from None
    except NbenchError as error:
        if debug:
            _print_traceback()
        click.echo(f"Error: {error}", err=True)
        raise click.exceptions.Exit(error.exit_code) from None
    except (KeyboardInterrupt, click.Abort):
        if debug:
            _print_traceback()
        click.echo("Interrupted.", err=True)
        raise click.exceptions.Exit(InfrastructureError.exit_code) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise  # the reader of a pipe went away: click ends quietly
        # Not 1, which would read as "gate breached".
        _print_traceback()
        click.echo(f"Error: nbench failed unexpectedly ({type(error).__name__}); this is a bug.", err=True)
        raise click.exceptions.Exit(InfrastructureError.exit_code) from None


def _print_traceback() -> None:
    import traceback

    click.echo(traceback.format_exc(), err=True, nl=False)


class LazyGroup(click.Group):
    """A click group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Command names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None when there is no such name."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the nearest name suggested for an unknown command."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"There is no command {args[0]!r}.{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Parse the group's own flags; a wrong one exits with 3."""
        with _exit_codes(debug=False):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see `_exit_codes` for how it may end."""
        with _exit_codes(debug=bool(ctx.params.get("debug"))), _plain_warnings():
            return super().invoke(ctx)


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--debug", is_flag=True, envvar="NBENCH_DEBUG", help="Show the traceback of an error.")
@click.version_option(nbench.__version__, prog_name="nbench")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Evaluate flow-matching text-to-image checkpoints fine-tuned with reinforcement learning.

    Start with `nbench run`, which needs no arguments: it generates pictures from the bundled pocket checkpoints at
    several step counts, scores them and prints a table.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Entry point of the console script."""
    cli.main(args=sys.argv[1:], prog_name="nbench")
