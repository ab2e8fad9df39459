"""`nbench run`, `show` and `export` end to end on a tiny SD3 pipeline."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nbench.cli import cli


def nbench(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli") / "store"


@pytest.fixture(scope="module")
def arguments(sd3_folder: Path, sd3_lora: Path, store: Path) -> list[object]:
    return [
        "run", "--checkpoint", f"base={sd3_folder}", "--checkpoint", f"nft={sd3_folder}+{sd3_lora}", "--steps", "1,2",
        "--prompts", "pocket", "--limit", 2, "--seeds", 1, "--scorers", "image-stats", "--size", 16, "--norm-ratio",
        "--store", store, "--name", "tiny", "--device", "cpu",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def first(arguments: list[object]) -> Result:
    return nbench(*arguments)


def test_a_run_prints_a_table_and_where_the_sheet_is(first: Result, store: Path) -> None:
    assert first.exit_code == 0, first.output
    assert "velocity" in first.output and "saturation" in first.output and "nft" in first.output
    sheet = store / "runs/tiny/report/contact-sheet.png"
    assert f"Contact sheet: {sheet}" in first.output and sheet.is_file()
    assert "Pictures: 8 generated" in first.output


def test_again_it_imports_no_torch_and_makes_nothing(first: Result, arguments: list[object]) -> None:
    assert first.exit_code == 0
    script = (
        "import sys; from nbench.cli import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "finally: print('heavy:', sorted({'torch', 'diffusers', 'transformers', 'scipy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert "Pictures: 0 generated, 8 taken from the store. Scores given: 0." in done.stdout, done.stderr
    assert "heavy: []" in done.stdout or "heavy: ['scipy']" in done.stdout


def test_show_prints_the_table_and_the_card(first: Result, store: Path) -> None:
    shown = nbench("show", "tiny", "--store", store, "--card")
    assert shown.exit_code == 0, shown.output
    assert "Run tiny: complete; 8 of 8 pictures" in shown.output
    assert json.loads(shown.output[shown.output.index("\n{") :])["steps"] == [1, 2]


def test_export_writes_files(first: Result, store: Path, tmp_path: Path) -> None:
    done = nbench("export", "tiny", "--to", "csv", tmp_path / "out", "--store", store)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "card.json", "norms.csv", "samples.csv", "scores.csv", "sets.csv",
    ]  # fmt: skip


def test_export_of_a_run_that_is_not_complete_says_so(first: Result, store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "store")
    (copy / "runs/tiny/done.json").unlink()
    done = nbench("export", "tiny", "--to", "csv", tmp_path / "out", "--store", copy)
    assert done.exit_code == 0 and "Warning: run 'tiny' is not complete" in done.stderr
    whole = nbench("export", "tiny", "--to", "csv", tmp_path / "whole", "--store", store)
    assert whole.stderr == ""


def test_a_sheet_older_than_the_tables_is_drawn_again(first: Result, arguments: list[object], store: Path) -> None:
    sheet = store / "runs/tiny/report/contact-sheet.png"
    right = sheet.read_bytes()
    sheet.write_bytes(b"of before")
    os.utime(sheet, (0, 0))
    assert nbench(*arguments).exit_code == 0
    assert sheet.read_bytes() == right


def test_the_run_goes_on_from_its_own_suite_file(first: Result, store: Path) -> None:
    done = nbench("run", store / "runs/tiny/suite.yaml", "--store", store)
    assert done.exit_code == 0, done.output
    assert "Pictures: 0 generated" in done.output


def test_a_dry_run_says_what_would_be_made(first: Result, arguments: list[object], store: Path) -> None:
    before = sorted(store.rglob("*"))
    done = nbench(*arguments, "--steps", "1,2,4", "--dry-run")
    assert done.exit_code == 0, done.output
    rows = [line.split("│") for line in done.output.splitlines() if "base" in line]
    assert [cell.strip() for cell in rows[0]][1:5] == ["base", "6", "4", "2"]
    assert sorted(store.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "0"], "'0' is not a number of steps"),
        (["--steps", "four"], "'four' is not a number of steps"),
        (["--scorers", "image-stat"], "unknown scorer 'image-stat'"),
        (["--prompts", "poket"], "Did you mean 'pocket'"),
        (["--size", "17"], "multiples of"),
        (["--size", "big"], "--size 'big' is no size"),
        (["--rescale", "2"], "--rescale '2' is not PHI"),
        (["--checkpoint", "x=/nowhere/at/all"], "/nowhere/at/all"),
        (["--checkpoint", "nowhere"], "has no name: write NAME=BASE"),
        (["--limit", "0"], "limit is 0"),
        (["--seeds", "2"], "seeds.count: 1 -> 2"),
        (["--grid", "karras"], "'karras' is not one of"),
    ],
)
def test_bad_input_ends_with_3_and_one_message(
    first: Result, arguments: list[object], flags: list[str], message: str
) -> None:
    done = nbench(*arguments, *flags)
    assert done.exit_code == 3, done.output
    assert message in done.output
    assert "Traceback" not in done.output


def test_an_epsilon_checkpoint_is_refused(epsilon_folder: Path, tmp_path: Path) -> None:
    done = nbench("run", "--checkpoint", f"e={epsilon_folder}", "--store", tmp_path)
    assert (done.exit_code, "not a flow-matching model" in done.output) == (3, True), done.output


def test_a_lora_for_another_architecture_is_refused(sd3_folder: Path, flux_lora: Path, tmp_path: Path) -> None:
    done = nbench("run", "--checkpoint", f"x={sd3_folder}+{flux_lora}", "--size", 16, "--store", tmp_path)
    assert done.exit_code == 3 and "LoRA" in done.output, done.output
    assert not list(tmp_path.glob("images/*/*.png"))


def test_a_pipeline_without_an_adapter_runs_too(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from nbench.testing import tiny_lumina2

    folder = tiny_lumina2(tmp_path_factory.mktemp("tiny") / "lumina2")
    arguments = (
        "run", "--checkpoint", f"l={folder}", "--prompts", "pocket", "--limit", 2, "--seeds", 1, "--steps", "1,2",
        "--size", 32, "--scorers", "image-stats", "--norm-ratio", "--store", tmp_path, "--name", "l",
    )  # fmt: skip
    done = nbench(*arguments)
    assert done.exit_code == 0, done.output
    assert "Pictures: 4 generated" in done.output
    assert "Pictures: 0 generated, 4 taken" in nbench(*arguments).output
    refused = nbench(*arguments, "--grid", "linspace", "--name", "other")
    assert refused.exit_code == 3 and "--grid diffusers" in refused.output, refused.output


def test_unknown_run_to_show_is_named(tmp_path: Path) -> None:
    done = nbench("show", "nothing", "--store", tmp_path)
    assert done.exit_code == 3 and "It holds no run yet" in done.output


def test_ctrl_c_ends_with_4_and_says_how_to_go_on(
    arguments: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nbench.runs.execute.resolve", stop)
    done = nbench(*arguments, "--store", tmp_path)
    assert done.exit_code == 4, done.output
    assert "Go on with the same command" in done.output and "Traceback" not in done.output
