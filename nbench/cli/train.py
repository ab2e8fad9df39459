"""`nbench train`: fine-tune a checkpoint with a method and guards, then compare it with its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nbench.errors import UsageError


@click.command("train")
@click.argument("config", required=False)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the training. Default: ./nbench-train/NAME of the config.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace a value of the config, such as optim.learning_rate=1e-4 or guards.0.weight=0.1; repeat for more.",
)
@click.option(
    "--guard",
    metavar="NAME[=WEIGHT]",
    help="Add a norm guard (norm_hinge, symmetric_norm, old_policy_hinge); of power 2; "
    "without WEIGHT it is calibrated.",
)
@click.option("--epochs", type=int, metavar="N", help="Short for --set optim.epochs=N; more epochs go on.")
@click.option("--list", "listing", is_flag=True, help="List the bundled configs and stop.")
@click.option("--show", is_flag=True, help="Print the whole config with all defaults and stop; nothing is loaded.")
def train(
    config: str | None,
    out: Path | None,
    settings: tuple[str, ...],
    guard: str | None,
    epochs: int | None,
    listing: bool,
    show: bool,
) -> None:
    """Fine-tune a flow-matching checkpoint by NFT, AWM, DPO or Flow-GRPO, with guards or without.

    CONFIG is a YAML file or the name of a bundled config. The same command goes on where a stopped training was. What
    it writes is a LoRA that `nbench run` and plain diffusers load.
    """
    if listing:
        _list()
        return
    if config is None:
        raise UsageError("there is no config: give a YAML file or a bundled name, which `nbench train --list` shows.")
    from nbench.normguard.config_file import read_config

    chosen = read_config(config, overrides(settings, epochs))
    if guard is not None:
        from nbench.normguard.config_file import with_guard

        name, equals, weight = guard.partition("=")
        try:
            chosen = with_guard(chosen, name, float(weight) if equals else None)
        except ValueError:
            raise UsageError(f"--guard {guard!r} is not NAME or NAME=WEIGHT: write, for example, norm_hinge.") from None
    if show:
        click.echo(chosen.to_yaml(), nl=False)
        return
    _train(chosen, out or Path("nbench-train") / chosen.name)


def overrides(settings: tuple[str, ...], epochs: int | None) -> dict[str, Any]:
    """`--set` and `--epochs` as `read_config` takes them.

    Raises:
        UsageError: a setting is not KEY=VALUE.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {setting!r} is not KEY=VALUE: write, for example, optim.epochs=20.")
        found[key.strip()] = value
    if epochs is not None:
        found["optim.epochs"] = epochs
    return found


def _list() -> None:
    from rich.table import Table

    from nbench.cli.run import wide_console
    from nbench.normguard.config_file import bundled_configs, read_config

    table = Table(
        "config", "base", "method", "guards", "reward", title="Bundled training configs", title_justify="left"
    )
    for name in bundled_configs():
        config = read_config(name)
        guards = ", ".join(guard.name for guard in config.guards) or "none"
        rewards = ", ".join(term.scorer for term in config.rewards)
        table.add_row(name, config.model.base, config.method.name, guards, rewards)
    wide_console().print(table)


def _leave_process_group() -> None:
    """Close connections to the other processes, if any; a process that exits with them open may be aborted."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _train(config: Any, out: Path) -> None:
    import os

    from rich.console import Console

    from nbench.cli.run import wide_console
    from nbench.cli.training_view import TrainingView
    from nbench.normguard.trainer import train as run_training
    from nbench.report.training import evaluation_table

    try:
        if int(os.environ.get("RANK", "0")) > 0:  # the first process reports
            run_training(config, out)
            return
        with TrainingView(Console(stderr=True), config) as view:
            result = run_training(config, out, observer=view)
    finally:
        _leave_process_group()
    wide_console().print(evaluation_table(result.evaluation))
    if config.model.tuning == "lora":
        loads = f"--checkpoint base={config.model.base} --checkpoint trained={config.model.base}+{result.policy}"
    else:
        loads = f"--checkpoint base={config.model.base} --checkpoint trained={result.policy}"
    click.echo(f"Trained {result.epochs} epochs, {result.step} optimiser steps. {result.seconds:.0f} s.")
    click.echo(f"Policy: {result.policy}")
    click.echo(f"Averaged: {result.ema}")
    click.echo(f"Log: {result.folder.log}")
    size = "" if config.model.height is None else f" --size {config.model.height}x{config.model.width}"
    click.echo(f"Next: nbench run {loads} --guidance {config.model.guidance or 'G'}{size}")
