"""The `nbench` group: lazy commands, exit codes, messages without tracebacks, and what start-up may cost."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from nbench import cli as cli_module
from nbench.cli import COMMANDS, cli
from nbench.errors import CardMismatchError, NbenchError, RunLockedError, StoreError, UsageError
from nbench.prompts import PromptSetWarning

HEAVY = ("torch", "diffusers", "transformers", "pyarrow", "PIL", "datasets", "open_clip", "scipy", "pandas")
ROOT = Path(cli_module.__file__).parents[2]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `nbench boom` whose body is the given function, or `nbench ARGS` without one."""

    def invoke(*args: str, body: Callable[[], object] | None = None) -> Result:
        if body is not None:
            module = types.ModuleType("nbench_test_boom")
            module.boom = click.command("boom")(body)  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, "nbench_test_boom", module)
            monkeypatch.setitem(COMMANDS, "boom", ("nbench_test_boom", "fails on purpose"))
            args = (*args, "boom")
        return CliRunner().invoke(cli, list(args))

    return invoke


def raiser(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("steps must be positive."), 3),
        (CardMismatchError("the run has other settings."), 3),
        (StoreError("the disk is full."), 4),
        (RunLockedError("another process works on the run."), 4),
    ],
)
def test_nbench_error_is_one_line_on_stderr_with_its_exit_code(
    run: Callable[..., Result], error: NbenchError, code: int
) -> None:
    result = run(body=raiser(error))
    assert result.exit_code == code
    assert result.stderr == f"Error: {error}\n"
    assert result.stdout == ""


def test_debug_adds_the_traceback(run: Callable[..., Result]) -> None:
    result = run("--debug", body=raiser(UsageError("steps must be positive.")))
    assert result.exit_code == 3
    assert "Traceback" in result.stderr and result.stderr.endswith("Error: steps must be positive.\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_interruption_exits_with_4(run: Callable[..., Result], error: BaseException) -> None:
    result = run(body=raiser(error))
    assert result.exit_code == 4
    assert result.stderr == "Interrupted.\n"


def test_unexpected_error_shows_its_traceback_and_never_reads_as_a_gate_verdict(run: Callable[..., Result]) -> None:
    result = run(body=raiser(ZeroDivisionError("oh")))
    assert result.exit_code == 4
    assert "Traceback" in result.stderr and "nbench failed unexpectedly (ZeroDivisionError)" in result.stderr


def test_closed_pipe_is_left_to_click(run: Callable[..., Result]) -> None:
    result = run(body=raiser(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    assert "Traceback" not in result.stderr and "unexpectedly" not in result.stderr


def test_command_may_choose_its_exit_code(run: Callable[..., Result]) -> None:
    assert run(body=lambda: click.get_current_context().exit(2)).exit_code == 2
    assert run(body=lambda: None).exit_code == 0


@pytest.mark.parametrize("args", [["--nonsense"], ["doctor", "--nonsense"], ["prompts", "show"], ["prompts", "sow"]])
def test_wrong_flags_and_arguments_exit_with_3(run: Callable[..., Result], args: list[str]) -> None:
    result = run(*args)
    assert result.exit_code == 3
    assert "Usage: " in result.stderr and "Error: " in result.stderr and "Traceback" not in result.stderr


def test_unknown_command_suggests_the_nearest(run: Callable[..., Result]) -> None:
    result = run("promtps")
    assert result.exit_code == 3
    assert "There is no command 'promtps'. Did you mean 'prompts'?" in result.stderr


def test_warning_of_nbench_is_one_sentence_and_others_are_untouched(run: Callable[..., Result]) -> None:
    def body() -> None:
        warnings.warn("texts repeat.", PromptSetWarning, stacklevel=1)

    usual = warnings.showwarning
    assert run(body=body).stderr == "Warning: texts repeat.\n"
    assert warnings.showwarning is usual


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_help_lists_every_command_without_importing_any(run: Callable[..., Result], args: list[str]) -> None:
    result = run(*args)
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.stdout


def test_help_imports_no_command_module() -> None:
    code = "import sys\nfrom nbench.cli import cli\ntry:\n cli.main(['--help'])\nfinally:\n print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "'nbench.cli'" in done.stdout
    assert not any(f"'{module}'" in done.stdout for module, _ in COMMANDS.values())


def test_every_command_is_a_click_command_whose_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, json\nfrom nbench.cli import cli, COMMANDS\nimport click\nctx = click.Context(cli)\n"
        "names = [cli.get_command(ctx, name).name for name in COMMANDS]\n"
        f"print(json.dumps([names, [m for m in {HEAVY} if m in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    names, heavy = json.loads(done.stdout)
    assert names == list(COMMANDS)
    assert heavy == []


def _cpu_seconds(*args: str) -> float:
    """Least user + system seconds of three runs; CPU time, so that a busy machine does not count."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *args], check=True, capture_output=True, env=environment, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(3))


def test_help_costs_less_than_0_3_s_of_cpu_over_importing_click() -> None:
    assert _cpu_seconds("-m", "nbench", "--help") - _cpu_seconds("-c", "import click") < 0.3
